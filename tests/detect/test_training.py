"""Whole losses, all gradients and five steps against torchvision's own networks in float64, with the same draws."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import resnet_jax as rn
from resnet_jax.runtime.mesh import make_mesh, put_batch, split_batch
from resnet_jax.tasks.detect.find import anchors_of
from resnet_jax.tasks.detect.loss import ANCHORS, ROIS, keys_of, make_loss
from resnet_jax.training.state import make_init_state
from resnet_jax.training.step import make_train_step, step_key

from .loss_cases import total, windows_of
from .oracle import images_of, pair, tensors_of, without_operators
from .sampling import Drawn

# Each of these takes a minute, most of it in torch's RoI align and in XLA; `test_losses.py` has every loss alone.
pytestmark = pytest.mark.slow

# Not `compile_quickly`: without XLA's optimisations the gradient of a gather is wrong in a few places.

PLACES, WINDOW = 4, 48
SHAPES = ((101, 133), (77, 61))
FEW = {
    "rpn_pre_nms_top_n_train": 60,
    "rpn_post_nms_top_n_train": 40,
    "rpn_batch_size_per_image": 96,
    "box_batch_size_per_image": 24,
}
"""RoI align in plain PyTorch is slow."""
NAMES = ("maskrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "fcos_resnet50_fpn", "fasterrcnn_resnet50_fpn")
SECOND = ("fasterrcnn_resnet50_fpn_v2", "retinanet_resnet50_fpn_v2", "maskrcnn_resnet50_fpn_v2")
FULL = {"maskrcnn_resnet50_fpn_v2": {"numbers": (4, 3), "box_batch_size_per_image": 12}}
"""The norms of a mask head see all its rows, a quarter of the proposals that are drawn. torchvision's see only those
that are to find an object. Here these fill the rows, since the boxes of the objects are among the proposals."""


@pytest.fixture(scope="module", autouse=True)
def without(torchvision):
    with pytest.MonkeyPatch.context() as patch, jax.enable_x64(True):
        without_operators(patch)
        yield


def targets_of(rng, images, numbers):
    """Boxes of some size, with masks of every shape within them."""
    targets = []
    for image, number in zip(images, numbers, strict=True):
        height, width = image.shape[:2]
        corner = rng.uniform(0, (width / 2, height / 2), (number, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(15, 40, (number, 2))], 1)
        y, x = np.mgrid[:height, :width]
        inside = [(x >= a) & (x < c) & (y >= b) & (y < d) for a, b, c, d in boxes]
        masks = [one & (rng.random((height, width)) < 0.7) for one in inside]
        targets.append(
            {
                "boxes": torch.tensor(boxes),
                "labels": torch.tensor(rng.integers(1, 5, number)),
                "masks": torch.tensor(np.array(masks).reshape(number, height, width).astype(np.uint8)),
            }
        )
    return targets


def batch_of(module, images, targets):
    """torchvision's canvas and targets, for both sides: the canvas is its own, and so are resized boxes and masks."""
    batch, resized = module.transform(tensors_of(images), [dict(target) for target in targets])
    count = len(images)
    leaves = {
        "image": np.moveaxis(batch.tensors.numpy(), 1, -1),
        "size": np.array(batch.image_sizes, np.int32),
        "boxes": np.zeros((count, PLACES, 4)),
        "classes": np.full((count, PLACES), -1, np.int32),
        "instances": np.zeros((count, PLACES, WINDOW, WINDOW), np.uint8),
    }
    for image, target in enumerate(resized):
        # Objects beyond their masks' windows are cut off on both sides.
        target["boxes"], number = target["boxes"].double(), len(target["boxes"])
        boxes, masks = target["boxes"].numpy(), target["masks"].numpy()
        y, x = np.mgrid[: masks.shape[1], : masks.shape[2]]
        for mask, (a, b, c, d) in zip(masks, boxes, strict=True):
            mask[(x < np.floor(a)) | (x >= np.ceil(c)) | (y < np.floor(b)) | (y >= np.ceil(d))] = 0
        leaves["boxes"][image, :number] = boxes
        leaves["classes"][image, :number] = target["labels"]
        leaves["instances"][image, :number] = windows_of(masks, boxes, WINDOW)
    module.transform.forward = lambda *_: (batch, resized)
    assign = getattr(module, "rpn", None) and module.rpn.assign_targets_to_anchors
    if assign:  # in float32, whatever the network is in
        doubled = lambda labels, boxes: ([label.double() for label in labels], [box.double() for box in boxes])
        module.rpn.assign_targets_to_anchors = lambda *arguments: doubled(*assign(*arguments))
    return leaves


def with_our_draws(module, model, batch, key):
    """torchvision's network, which draws what our step with this key draws."""
    if not hasattr(module, "rpn"):
        return
    canvas, positions = batch["image"].shape[1:3], jnp.arange(len(batch["image"]))
    anchors = len(anchors_of(model, canvas))
    module.rpn.fg_bg_sampler = Drawn(keys_of(key, positions, ANCHORS), anchors, model.rpn_batch_size_per_image, 0.5)
    levels = anchors_of_levels_count(model, canvas)
    proposed = min(sum(min(model.rpn_pre_nms_top_n_train, count) for count in levels), model.rpn_post_nms_top_n_train)

    def places(image, rows):
        objects = int(np.sum(batch["classes"][image] > 0))
        return np.r_[np.arange(rows - objects), proposed + np.arange(objects)]

    module.roi_heads.fg_bg_sampler = Drawn(
        keys_of(key, positions, ROIS), proposed + PLACES, model.box_batch_size_per_image, 0.25, places
    )


def anchors_of_levels_count(model, canvas):
    from resnet_jax.tasks.detect.find import anchors_of_levels

    return [len(level) for level in anchors_of_levels(model, canvas)]


def both(name, numbers=(3, 0), **options):
    """torchvision's network in training, ours, its variables, and a batch."""
    few = FEW | options if "rcnn" in name else {}
    module, model, variables = pair(name, of_ours=few)
    if few:
        module.rpn._pre_nms_top_n["training"], module.rpn._post_nms_top_n["training"] = 60, 40
    images = images_of(1, *SHAPES)
    targets = targets_of(np.random.default_rng(2), images, numbers)
    batch = batch_of(module, images, targets)
    # Copies: torch would change the running statistics in our arrays too.
    variables, batch = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), (variables, batch))
    return module.train(), model, variables, batch, targets


def named(variables, params):
    """Parameters, or their gradients, under torchvision's names."""
    return rn.to_torchvision({"params": params, "batch_stats": variables["batch_stats"]})


@pytest.mark.parametrize("name", [*NAMES, *SECOND])
def test_losses_and_gradients_are_torchvisions(name):
    module, model, variables, batch, targets = both(name, **FULL.get(name, {}))
    key = jax.random.key(3)
    with_our_draws(module, model, batch, key)
    expected = module(tensors_of(images_of(1, *SHAPES)), targets)
    loss = make_loss(model, lambda key, batch: batch)

    @jax.jit
    def ours(params):
        found = loss(params, variables["batch_stats"], {**batch, "position": jnp.arange(2)}, key, None)
        losses = total(found.several)
        return sum(losses.values()), (losses, found.batch_stats)

    grads, (losses, batch_stats) = jax.jit(jax.grad(ours, has_aux=True))(variables["params"])
    assert losses.keys() == expected.keys()
    for one, value in expected.items():
        assert value > 0
        np.testing.assert_allclose(losses[one], value.item(), rtol=1e-9, err_msg=one)
    sum(expected.values()).backward()
    grads = named(variables, grads)
    largest = {}
    for key, parameter in module.named_parameters():
        scale = parameter.grad.abs().max().item()
        largest[key] = scale
        np.testing.assert_allclose(grads[key], parameter.grad, rtol=1e-9, atol=1e-9 * max(scale, 1e-3), err_msg=key)
    assert min(largest.values()) > 0, "each parameter has a gradient"
    moved = rn.to_torchvision({"params": variables["params"], "batch_stats": batch_stats})
    for key, value in module.named_buffers():
        if "running" in key:
            np.testing.assert_allclose(moved[key], value, rtol=1e-9, atol=1e-12, err_msg=key)


def step_of(model, optimizer, devices=1, accumulate=1, batch_stats=None):
    """The step, and the function from variables to a state."""
    mesh = make_mesh(jax.devices()[:devices])
    loss = make_loss(model, lambda key, batch: batch)
    size = model.backbone.bn_group_size
    step = make_train_step(loss, optimizer, mesh, bn_group_size=size, accumulate=accumulate)

    def state_of(variables):
        state = make_init_state(partial(rn.init, model), optimizer, mesh)(jax.random.key(0))
        copied = jax.tree.map(
            lambda like, leaf: jax.device_put(jnp.array(leaf), like.sharding), state.variables, variables
        )
        return state.replace(params=copied["params"], batch_stats=copied["batch_stats"])

    return step, state_of, lambda batch: put_batch(jax.device_get(batch), split_batch(mesh))


@pytest.mark.parametrize("name", NAMES[:3])
def test_five_steps_are_torchs(name):
    module, model, variables, batch, targets = both(name)
    rate = 1e-5
    optimizer = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(rate, momentum=0.9))
    step, state_of, put = step_of(model, optimizer)
    state, batch_here = state_of({name: variables[name] for name in ("params", "batch_stats")}), put(batch)
    theirs = torch.optim.SGD(module.parameters(), rate, momentum=0.9, weight_decay=1e-4)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    for number in range(5):
        key = step_key(jax.random.wrap_key_data(state.key), number)
        with_our_draws(module, model, batch, key)
        state, metrics = step(state, batch_here)
        theirs.zero_grad()
        losses = module(tensors_of(images_of(1, *SHAPES)), targets)
        sum(losses.values()).backward()
        theirs.step()
        for one, value in losses.items():
            np.testing.assert_allclose(metrics[one], value.item(), rtol=1e-8, err_msg=one)
        np.testing.assert_allclose(metrics["loss"], sum(losses.values()).item(), rtol=1e-8)
    ours = rn.to_torchvision({"params": state.params, "batch_stats": state.batch_stats})
    for key, value in module.state_dict().items():
        if "num_batches" not in key:
            np.testing.assert_allclose(ours[key], value, rtol=1e-8, atol=1e-8, err_msg=key)
            assert not torch.equal(value, before[key]), f"{key} has not moved"
            assert value.abs().max() < 1e3, "nothing has diverged"
