"""The masks that proposals are to find, and their loss, against torchvision's own functions in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from resnet_jax.tasks.detect import roi_heads
from resnet_jax.tasks.detect.mask_targets import align_masks
from resnet_jax.tasks.detect.roi_heads import Rois, mask_losses, rois_with_masks

from .loss_cases import CLASSES, PLACES, TWO_STAGE, objects_of, total, windows_of


@pytest.fixture(autouse=True)
def _float64(compile_quickly):
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def plain(torchvision):
    """torchvision's RoI align in plain PyTorch, which it compiles otherwise."""
    import sys

    return sys.modules["torchvision.ops.roi_align"]._roi_align.__wrapped__


def masks_and_rois(rng, count, height, width):
    """Masks that lie within their boxes, some at the border of the image, and proposals that reach beyond the boxes."""
    corner = rng.uniform(0, (width - 20, height - 20), (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(4, 20, (count, 2))], 1)
    boxes[0], boxes[1] = (0, 0, 9.5, 7), (width - 12.25, height - 9, width, height)
    y, x = np.mgrid[:height, :width]
    inside = (
        (x >= np.floor(boxes[:, 0, None, None]))
        & (x < np.ceil(boxes[:, 2, None, None]))
        & (y >= np.floor(boxes[:, 1, None, None]))
        & (y < np.ceil(boxes[:, 3, None, None]))
    )
    masks = (rng.random((count, height, width)) < 0.6) & inside
    rois = boxes + rng.uniform(-5, 5, (count, 4))
    rois[2] = boxes[2, [0, 1, 0, 1]] + 1e-3  # next to no area
    rois = np.stack([rois[:, 0].clip(0), rois[:, 1].clip(0), rois[:, 2].clip(0, width), rois[:, 3].clip(0, height)], 1)
    rois[:, 2:] = np.maximum(rois[:, 2:], rois[:, :2])
    return masks, boxes, rois


def test_masks_within_windows_are_those_of_whole_images(plain):
    rng = np.random.default_rng(4)
    height, width, count = 37, 53, 60
    masks, boxes, rois = masks_and_rois(rng, count, height, width)
    sizes = jnp.broadcast_to(jnp.asarray([height, width]), (count, 2))
    align = jax.jit(partial(align_masks, grid=7, most_samples=5))
    ours = align(windows_of(masks, boxes, 24), jnp.asarray(boxes), jnp.asarray(rois), sizes)
    both = torch.tensor(np.c_[np.arange(count), rois])
    expected = plain(torch.tensor(masks[:, None] * 1.0), both, 1.0, 7, 7, -1, False)[:, 0]
    np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)
    assert 0.1 < np.mean(ours) < 0.6


def test_masks_of_windows_that_are_scaled(plain):
    """A mask that is the same everywhere stays it, also at the border of the image; one that changes is near."""
    height = width = 64
    boxes = jnp.asarray([[0.0, 0, 64, 64], [8.0, 8, 56, 56]])
    sizes = jnp.full((2, 2), 64)
    ones = np.ones((2, 16, 16), np.uint8)
    rois = jnp.asarray([[0.0, 0, 64, 64], [14.0, 14, 50, 50]])
    align = jax.jit(align_masks, static_argnums=(4, 5))
    whole = align(ones, boxes, rois, sizes, 7, 10)
    np.testing.assert_allclose(whole, 1, rtol=1e-12)
    y, x = np.mgrid[:height, :width]
    mask = ((x - 32) ** 2 + (y - 32) ** 2 < 24**2).astype(np.float64)
    small = mask[8:56, 8:56].reshape(16, 3, 16, 3).mean((1, 3))
    ours = align(jnp.asarray(small)[None], boxes[1:], boxes[1:], sizes[1:], 14, 4)
    both = torch.tensor(np.c_[[0.0], np.asarray(boxes[1:])])
    expected = plain(torch.tensor(mask)[None, None], both, 1.0, 14, 14, -1, False)[:, 0].numpy()
    assert np.abs(ours - expected).mean() < 0.03


def of_class(logits, labels):
    """A head of masks that sees the logits of all classes."""
    return jnp.take_along_axis(logits, labels.reshape(-1, 1, 1, 1), axis=-1)[..., 0]


@pytest.mark.parametrize("at_once", [3, 32])
def test_masks_of_proposals(plain, monkeypatch, at_once):
    """Two at a time, since an image has four and no thirds of them, and all of an image at a time."""
    from torchvision.models.detection import roi_heads as of_torchvision

    monkeypatch.setattr(roi_heads, "AT_ONCE", at_once)
    monkeypatch.setattr(
        of_torchvision, "roi_align", lambda masks, rois, size, scale: plain(masks, rois, scale, *size, -1, False)
    )
    rng = np.random.default_rng(5)
    height, width = 37, 53
    objects, positive = objects_of(rng), np.array([3, 4, 0])
    masks, boxes, rois = masks_and_rois(rng, 3 * PLACES, height, width)
    objects = objects._replace(boxes=jnp.asarray(boxes.reshape(3, PLACES, 4)))
    own = np.tile(np.arange(PLACES), (3, 4))[:, :16] % 3
    number = np.arange(16)[None] < positive[:, None]
    near = rois.reshape(3, PLACES, 4)[np.arange(3)[:, None], own]
    labels = np.where(number, np.asarray(objects.classes)[np.arange(3)[:, None], own], 0)
    drawn = Rois(*map(jnp.asarray, (near, labels, own, np.ones((3, 16), bool))))
    kept = jax.jit(partial(rois_with_masks, TWO_STAGE))(drawn)
    assert kept.labels.shape == (3, 4)
    np.testing.assert_array_equal(kept.real, number[:, :4])
    np.testing.assert_array_equal(kept.boxes[0, 3], near[0, 0], "repeats the first")

    logits = rng.normal(size=(12, 5, 5, CLASSES))
    bitmaps = windows_of(masks, boxes, 24).reshape(3, PLACES, 24, 24)[np.arange(3)[:, None], kept.objects]
    of_objects = jnp.take_along_axis(objects.boxes, kept.objects[..., None], axis=1)
    sizes = jnp.broadcast_to(jnp.asarray([height, width]), (12, 2))
    one = lambda x: x.reshape(-1, *x.shape[2:])
    windows, cut = (one(bitmaps), one(of_objects), one(kept.boxes), sizes), partial(align_masks, grid=5, most_samples=8)
    ours = lambda logits: total(mask_losses(of_class, cut, logits, windows, kept))["loss_mask"]

    theirs = torch.tensor(np.moveaxis(logits, -1, 1), requires_grad=True)
    rows = [slice(0, number) for number in positive]
    expected = of_torchvision.maskrcnn_loss(
        theirs[torch.tensor(np.array(kept.real).reshape(-1))],
        [torch.tensor(near[i, rows[i]]) for i in range(3)],
        [torch.tensor(one) for one in masks.reshape(3, PLACES, height, width)],
        [torch.tensor(one) for one in np.asarray(objects.classes)],
        [torch.tensor(own[i, rows[i]]) for i in range(3)],
    )
    loss, grads = jax.jit(jax.value_and_grad(ours))(jnp.asarray(logits))
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-11)
    expected.backward()
    np.testing.assert_allclose(np.moveaxis(grads, -1, 1), theirs.grad, rtol=1e-9, atol=1e-13)


def test_nothing_is_computed_where_no_proposal_counts():
    """What is not a number there would reach the gradients otherwise."""
    labels = jnp.ones((2, 4), int)
    rois = Rois(jnp.zeros((2, 4, 4)), labels, labels, jnp.asarray([[True, True, False, False], [False] * 4]))
    grids = np.random.default_rng(6).normal(size=(8, 5, 5, CLASSES))
    grids[4:] = np.nan
    scale = jnp.float64(2)
    ours = lambda scale, grids: total(
        mask_losses(lambda *some: scale * of_class(*some), lambda masks: masks, grids, [jnp.zeros((8, 5, 5))], rois)
    )["loss_mask"]
    loss, grads = jax.jit(jax.value_and_grad(ours, argnums=(0, 1)))(scale, jnp.asarray(grids))
    of_two = np.logaddexp(0, 2 * grids[:2, ..., 1])
    np.testing.assert_allclose(loss, of_two.mean(), rtol=1e-12)
    assert np.isfinite(grads[0])
    assert np.count_nonzero(grads[1]) == 2 * 25
