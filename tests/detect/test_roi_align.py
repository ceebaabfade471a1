"""RoI align against torchvision's plain PyTorch, and against its definition."""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from resnet_jax.tasks.detect.roi_align import roi_align

# Not `compile_quickly`: without XLA's optimisations the gradient of a gather is wrong in a few places (jaxlib 0.10.2 on
# CPUs).


@pytest.fixture(scope="module")
def plain(torchvision):
    """torchvision's RoI align in plain PyTorch, which it compiles otherwise."""
    return sys.modules["torchvision.ops.roi_align"]._roi_align.__wrapped__


def rois_of(rng, count, height, width, least):
    """Boxes on a map, with sides of at least a pixel of it where they touch its end: torchvision's plain form does not
    know that a sample outside is 0, as its compiled one does."""
    sides = np.array([width, height])
    corner = rng.uniform(0, 1, (count, 2)) * (sides - least)
    rois = np.concatenate([corner, corner + least + rng.uniform(0, 1, (count, 2)) * (sides - least - corner)], 1)
    rois[0] = [3, 3, 3, 3]  # no area
    rois[1] = [0, 0, width, height]
    rois[2] = np.round(rois[2])  # whole pixels
    return rois


@pytest.mark.parametrize(
    ("size", "samples", "scale", "aligned"),
    [(7, 2, 0.25, False), (3, 1, 1.0, True), pytest.param(2, 3, 0.5, False, marks=pytest.mark.slow)],
)
def test_grids_and_gradients(plain, size, samples, scale, aligned):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        maps, images = rng.normal(size=(2, 13, 17, 3)), rng.integers(0, 2, 60)
        rois = rois_of(rng, 60, 13 / scale, 17 / scale, 1 / scale)
        weights = rng.normal(size=(60, size, size, 3))

        @jax.jit
        def both_ways(maps):
            ours, back = jax.vjp(
                lambda maps: roi_align(
                    maps, jnp.asarray(rois), jnp.asarray(images), size, scale=scale, samples=samples, aligned=aligned
                ),
                maps,
            )
            return ours, back(jnp.asarray(weights))[0]

        ours, grads = both_ways(maps)
        theirs = torch.tensor(np.moveaxis(maps, -1, 1), requires_grad=True)
        both = torch.tensor(np.c_[images, rois])
        expected = plain(theirs, both, scale, size, size, samples, aligned)
        np.testing.assert_allclose(ours, np.moveaxis(expected.detach().numpy(), 1, -1), rtol=1e-12, atol=1e-12)
        (expected * torch.tensor(np.moveaxis(weights, -1, 1))).sum().backward()
        np.testing.assert_allclose(grads, np.moveaxis(theirs.grad.numpy(), 1, -1), rtol=1e-11, atol=1e-12)


def test_a_sample_more_than_a_pixel_outside_is_nothing():
    """As in torchvision's compiled form: within a pixel a sample is that of the border, behind it 0."""
    rois = np.array([[-4, 0, 4, 4], [-3, 0, 5, 4], [0, 3, 4, 7], [0, 3, 4, 8]], np.float32)
    align = jax.jit(lambda rois: roi_align(jnp.ones((1, 6, 8, 1)), rois, jnp.zeros(4, int), 2, samples=1))
    found = align(rois)[..., 0]
    np.testing.assert_array_equal(found[0], [[0, 1], [0, 1]])  # samples at -2 and 2
    np.testing.assert_array_equal(found[1], [[1, 1], [1, 1]])  # at -1 and 3
    np.testing.assert_array_equal(found[2], [[1, 1], [1, 1]])  # at 4 and 6, the border
    np.testing.assert_array_equal(found[3], [[1, 1], [0, 0]])  # at 4.25 and 6.75


def test_no_array_as_large_as_the_maps_waits_for_the_gradient():
    """XLA for CPUs would write its zeros at the start of the step, and keep them until they are needed."""
    maps, rois = jnp.ones((1, 40, 30, 8)), jnp.array([[2.0, 3.0, 20.0, 30.0]])

    def loss(maps):
        return jnp.sum(roi_align(maps, rois, jnp.zeros(1, int), 7) ** 2)

    text = jax.jit(jax.grad(loss)).lower(maps).compile().as_text()
    assert "f32[1200,8]" in text  # the pixels of the maps
    entry = text[text.index("ENTRY ") :]
    assert not re.search(r"f32\[1200,8\]\S* (broadcast|copy)\(|f32\[1200,8\]\S* fusion\(.*broadcast", entry), entry


def test_without_any_gradient_it_is_zero():
    maps, rois = jnp.ones((1, 5, 6, 2)), jnp.array([[0.0, 0.0, 4.0, 4.0]])
    _, back = jax.vjp(lambda maps: roi_align(maps, rois, jnp.zeros(1, int), 2), maps)
    np.testing.assert_array_equal(back(jnp.zeros((1, 2, 2, 2)))[0], np.zeros(maps.shape))
    assert np.isnan(back(jnp.full((1, 2, 2, 2), jnp.nan))[0]).any()
