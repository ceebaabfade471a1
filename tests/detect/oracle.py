"""torchvision's detectors without its compiled operators, and ours with the same weights."""

import sys
from functools import partial

import jax.numpy as jnp
import numpy as np
import torch

import resnet_jax as rn
from resnet_jax.parity import import_torchvision

import_torchvision()  # before the next line imports it

from .torch_networks import CLASSES, FEW, SIZES, WIDTH, images_of, randomise, tensors_of, theirs  # noqa: E402

__all__ = ["images_of", "ours", "pair", "prepared", "tensors_of", "theirs", "without_operators"]

SMALL = {"stage_sizes": (1, 1, 1, 1), "width": 8, "param_dtype": jnp.float64, "num_classes": CLASSES}
PYRAMID = {"pyramid_width": WIDTH, **SIZES}


def greedy_nms(boxes, scores, threshold):
    """torchvision's operator, box by box, the best first."""
    own = boxes.detach().numpy()
    areas, left, kept = (
        np.prod(own[:, 2:] - own[:, :2], axis=1),
        np.argsort(-scores.detach().numpy(), kind="stable"),
        [],
    )
    while len(left):
        first, left = left[0], left[1:]
        kept.append(first)
        low, high = np.maximum(own[first, :2], own[left, :2]), np.minimum(own[first, 2:], own[left, 2:])
        shared = np.prod(np.maximum(high - low, 0), axis=1)
        with np.errstate(invalid="ignore"):
            left = left[~(shared / (areas[first] + areas[left] - shared) > threshold)]
    return torch.tensor(np.array(kept, np.int64))


def without_operators(patch):
    """torchvision's Python, where its compiled operators are missing: NMS as above, RoI align in plain PyTorch."""
    import_torchvision()
    patch.setattr("torchvision.ops.boxes.nms", greedy_nms)
    align = sys.modules["torchvision.ops.roi_align"]
    patch.setattr(align, "_roi_align", align._roi_align.__wrapped__)
    patch.setattr(align, "_bilinear_interpolate", partial(_zero_outside, align._bilinear_interpolate))
    patch.setattr(align, "_has_ops", lambda: False)
    patch.setattr(align, "is_compile_supported", lambda device: True)


def _zero_outside(interpolate, maps, images, y, x, *masks):
    """torchvision's compiled operator gives 0 more than a pixel outside of the map, its plain form does not."""
    seen = [(at >= -1) & (at <= length) for at, length in ((y, maps.shape[2]), (x, maps.shape[3]))]
    both = seen[0][:, None, :, None, :, None] & seen[1][:, None, None, :, None, :]
    return interpolate(maps, images, y, x, *masks) * both


def ours(name, **options):
    """Our network of the same shapes."""
    own = {"head_width": 32, **FEW} if "rcnn" in name else {}
    own |= {"mask_width": WIDTH} if "mask" in name else {}
    return rn.create_model(name.replace("resnet50", "resnet18"), **{**SMALL, **PYRAMID, **own, **options})


def pair(name, seed=0, *, of_ours=None, **options):
    """torchvision's network, ours, and its variables."""
    module, model = randomise(theirs(name, **options), seed), ours(name, **(of_ours or {}))
    arrays = {key: tensor.numpy() for key, tensor in module.state_dict().items()}
    return module, model, rn.from_torchvision(arrays, model)


def prepared(module, images):
    """torchvision's own canvas: images (N, H, W, C), and their sizes."""
    batch, _ = module.transform(tensors_of(images))
    return jnp.asarray(batch.tensors.numpy().transpose(0, 2, 3, 1)), jnp.asarray(batch.image_sizes, jnp.int32)
