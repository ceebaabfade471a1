"""Colour jitter against torchvision's operators and law, lighting against its published covariance."""

from functools import partial
from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from resnet_jax.data import colour
from resnet_jax.data.colour import add_lighting, jitter

ADJUST = ["brightness", "contrast", "saturation", "hue"]


def picture():
    """Smooth colours, noise, and rows of pure, grey, black and white pixels, where hue has corner cases."""
    rng = np.random.default_rng(0)
    image = np.asarray(Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8)).resize((31, 21))).copy()
    image[0] = rng.integers(0, 2, (31, 3)) * 255
    image[1] = np.linspace(0, 255, 31).astype(np.uint8)[:, None]
    image[2] = rng.integers(0, 256, (31, 3))
    return image


@pytest.mark.parametrize(
    ("name", "factor"),
    [(name, factor) for name in ADJUST[:3] for factor in (0.0, 0.3, 1.0, 1.7)]
    + [("hue", turn) for turn in (-0.5, -0.21, 0.0, 0.1, 0.5)],
)
def test_operators_are_torchvisions(torchvision, name, factor):
    import torch
    from torchvision.transforms import functional

    image = picture()
    ours = np.asarray(getattr(colour, f"adjust_{name}")(jnp.asarray(image / 255, jnp.float32), jnp.float32(factor)))
    adjust = getattr(functional, f"adjust_{name}")
    theirs = adjust(torch.from_numpy(image).permute(2, 0, 1).float() / 255, factor).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(ours, theirs, atol=2e-6)
    # On bytes, Pillow rounds grey and result to a level, and both hue and turn to 1/256 of the circle: 6 levels each.
    on_bytes = np.asarray(adjust(Image.fromarray(image), factor), np.float64)
    levels = np.abs(ours * 255 - on_bytes)
    assert levels.max() <= (14 if name == "hue" else 2)
    assert levels.mean() < 1.6


def test_grey_images_have_brightness_and_contrast(torchvision):
    import torch
    from torchvision.transforms import functional

    image = jnp.asarray(picture()[..., :1] / 255, jnp.float32)
    theirs = functional.adjust_contrast(torch.from_numpy(np.array(image)).permute(2, 0, 1), 0.4)
    np.testing.assert_allclose(colour.adjust_contrast(image, jnp.float32(0.4))[..., 0], theirs[0].numpy(), atol=2e-6)


def test_jitter_draws_torchvisions_factors_in_any_order(monkeypatch):
    """Each operator marks its call: factors are uniform in their ranges, and all 24 orders come equally often."""

    # What is called is written into the image: pixel i holds the factor of operation i, and the place it had.
    def record(number):
        def adjust(image, factor):
            place = image[-1, 0, 0]
            return image.at[number, 0, 0].set(factor).at[number, 1, 0].set(place).at[-1, 0, 0].set(place + 1)

        return adjust

    for number, name in enumerate(ADJUST):
        monkeypatch.setattr(colour, f"adjust_{name}", record(number))
    keys = jax.random.split(jax.random.key(0), 4800)
    draw = partial(jitter, brightness=0.4, contrast=1.5, saturation=0.2, hue=0.1)
    result = np.asarray(jax.jit(jax.vmap(draw, (0, None)))(keys, jnp.zeros((5, 2, 1))))
    factors, places = result[:, :4, 0, 0], result[:, :4, 1, 0].astype(int)
    ranges = [(0.6, 1.4), (0.0, 2.5), (0.8, 1.2), (-0.1, 0.1)]
    for i, (low, high) in enumerate(ranges):
        assert stats.kstest(factors[:, i], stats.uniform(low, high - low).cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(factors.T) - np.eye(4)).max() < 0.06
    counts = np.array([(places == order).all(1).sum() for order in permutations(range(4))])
    assert counts.sum() == 4800
    assert ((counts - 200) ** 2 / 200).sum() < 49.7, "beyond the 0.1 % quantile for 23 degrees of freedom"


def test_a_strength_of_zero_leaves_an_operation_out():
    image = jnp.asarray(picture() / 255, jnp.float32)
    only_hue = jitter(jax.random.key(0), image, 0, 0, 0, 0.3)
    np.testing.assert_allclose(only_hue.max(-1), image.max(-1), atol=1e-6)
    assert not np.allclose(only_hue, image, atol=0.01)


def test_lighting_adds_one_colour_of_the_published_covariance():
    image = jnp.asarray(picture() / 255, jnp.float32)
    keys = jax.random.split(jax.random.key(0), 4000)
    lit = np.asarray(jax.vmap(lambda key: add_lighting(key, image[:2, :2], 0.1))(keys), np.float64)
    added = lit - np.asarray(image[:2, :2])[None]
    np.testing.assert_allclose(added, np.broadcast_to(added[:, :1, :1], added.shape), atol=1e-6)
    vectors, values = np.array(colour.EIGENVECTORS), np.array(colour.EIGENVALUES)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=2e-3)
    # Along its components the noise is normal and independent, with 0.1 times the published values.
    amounts = added[:, 0, 0] @ vectors / (0.1 * values)
    for i in range(3):
        assert stats.kstest(amounts[:, i], "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(amounts.T) - np.eye(3)).max() < 0.06
