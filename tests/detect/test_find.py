"""Maps, logits, proposals, boxes and masks against torchvision's own networks, in float64, on images of odd sizes."""

import jax
import numpy as np
import pytest
import torch

from resnet_jax.models.detect.two_stage import TwoStage
from resnet_jax.tasks.detect.find import flat, one_stage, propose, second_stage

from .oracle import images_of, pair, prepared, tensors_of, without_operators

# Not `compile_quickly`: convolutions in float64 take ten times as long with it.

NAMES = (
    "maskrcnn_resnet50_fpn",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            *("fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2", "maskrcnn_resnet50_fpn_v2"),
            *("retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2", "fcos_resnet50_fpn"),
        )
    ),
)


@pytest.fixture(scope="module", autouse=True)
def without(torchvision):
    with pytest.MonkeyPatch.context() as patch, jax.enable_x64(True):
        without_operators(patch)
        yield


def heard(module, images):
    """What torchvision's network says of images: maps, scores and deltas of all anchors, proposals, and objects on the
    canvas."""
    said = {}

    def keep(name):
        return lambda part, inputs, out: said.__setitem__(name, out)

    parts = {"maps": module.backbone} | ({"proposals": module.rpn} if hasattr(module, "rpn") else {"head": module.head})
    handles = [part.register_forward_hook(keep(name)) for name, part in parts.items()]
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.transform, "postprocess", lambda result, *_: result)
        said["found"] = module(tensors_of(images))
        if hasattr(module, "rpn"):
            from torchvision.models.detection.rpn import concat_box_prediction_layers

            both = concat_box_prediction_layers(*module.rpn.head(list(said["maps"].values())))
            said["scores"], said["deltas"] = (numbers.reshape(len(images), -1, numbers.shape[-1]) for numbers in both)
        else:
            said |= {"scores": said["head"]["cls_logits"], "deltas": said["head"]["bbox_regression"]}
    for handle in handles:
        handle.remove()
    return said


def everything(model):
    """The same of ours, compiled once."""

    def program(variables, images, sizes):
        out = model.apply(variables, images, train=False)
        if not isinstance(model, TwoStage):
            return out, None, one_stage(model, out, sizes, images.shape[1:3])
        proposals = propose(model, out, sizes, images.shape[1:3])
        return out, proposals, second_stage(model, variables, out["maps"], proposals, sizes)

    return jax.jit(program)


def close(ours, theirs, atol):
    np.testing.assert_allclose(np.asarray(ours), theirs.numpy(), rtol=0, atol=atol)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_torchvisions(name):
    module, model, variables = pair(name)
    images = images_of(1, (101, 133), (77, 61))
    expected = heard(module, images)
    out, proposals, found = everything(model)(variables, *prepared(module, images))
    for ours, theirs in zip(out["maps"], expected["maps"].values(), strict=True):
        close(np.moveaxis(ours, -1, 1), theirs, 1e-10)
    at_once = proposals is None
    for leaf, numbers in (("scores", model.num_classes if at_once else 1), ("deltas", 4)):
        close(np.concatenate(flat(out[leaf], numbers), axis=1), expected[leaf], 1e-10)
    if name.startswith("fcos"):
        close(np.concatenate(flat(out["centred"], 1), axis=1), expected["head"]["bbox_ctrness"], 1e-10)
    for i in range(len(images)):
        if not at_once:
            boxes = expected["proposals"][0][i]
            assert proposals.real[i].sum() == len(boxes) == 70
            close(proposals.boxes[i, : len(boxes)], boxes, 1e-9)
        theirs = expected["found"][i]
        real = np.asarray(found.labels[i]) >= 0
        count = len(theirs["boxes"])
        np.testing.assert_array_equal(np.flatnonzero(real), np.arange(count))
        assert len(np.unique(theirs["labels"])) >= 3
        assert count >= 50
        np.testing.assert_array_equal(found.labels[i, :count], theirs["labels"])
        close(found.boxes[i, :count], theirs["boxes"], 1e-9)
        close(found.scores[i, :count], theirs["scores"], 1e-12)
        assert ("masks" in theirs) == (found.masks is not None)
        if "masks" in theirs:
            close(found.masks[i, :count], theirs["masks"][:, 0], 1e-11)
