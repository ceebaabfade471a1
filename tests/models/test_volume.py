"""Convolutions of clips: the forms of CPUs against XLA's convolution of three axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.models import volume
from resnet_jax.models.forms import forms_of

CASES = {  # length, kernel's frames and side, channels, features, and what is not 1, 1, 1 and "same"
    "even": (6, 3, 3, 5, 4, {}),
    "odd": (7, 3, 3, 3, 4, {}),
    "one frame": (1, 3, 3, 4, 4, {}),
    "two frames": (2, 3, 3, 4, 4, {}),
    "border": (5, 3, 3, 4, 4, {"border": True}),
    "no padding": (6, 3, 3, 4, 4, {"padding": ((0, 0), (1, 1), (1, 1))}),
    "uneven padding": (6, 3, 3, 4, 4, {"padding": ((2, 0), (1, 1), (0, 1))}),
    "groups": (5, 3, 3, 6, 4, {"feature_group_count": 2}),
    "strides": (7, 3, 3, 4, 4, {"window_strides": (2, 2, 2)}),
    "smaller sides": (6, 3, 3, 4, 4, {"window_strides": (1, 2, 2)}),
    "time alone": (7, 3, 1, 6, 4, {"padding": ((1, 1), (0, 0), (0, 0))}),
    "time alone, wider": (7, 3, 1, 4, 6, {"padding": ((1, 1), (0, 0), (0, 0))}),
    "dilation": (8, 3, 3, 4, 4, {"padding": ((2, 2),) * 3, "rhs_dilation": (2, 2, 2)}),
    "five frames": (7, 5, 3, 4, 4, {"padding": ((2, 2), (1, 1), (1, 1))}),
    "a frame": (4, 1, 3, 4, 4, {"padding": ((0, 0), (1, 1), (1, 1))}),
}


@pytest.fixture(autouse=True)
def _quickly(compile_quickly):
    """Small programs."""


def arrays(name, dtype=np.float64):
    length, frames, side, channels, features, window = CASES[name]
    options = dict(window)
    border = options.pop("border", False)
    usual = {"window_strides": (1, 1, 1), "padding": ((1, 1),) * 3, "rhs_dilation": (1, 1, 1), "feature_group_count": 1}
    window = {**usual, **options}
    rng = np.random.default_rng(len(name))
    x = rng.normal(size=(2, length, 7, 5, channels))
    kernel = rng.normal(size=(frames, side, side, channels // window["feature_group_count"], features))
    return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype), {"window": window, "border": border}


def value_and_gradients(x, kernel, options, platform):
    @jax.jit
    def run(x, kernel):
        y, backward = jax.vjp(lambda x, kernel: volume.volume(x, kernel, **options), x, kernel)
        alone = volume.volume(x, kernel, **options)
        return alone, y, *backward(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    with forms_of(platform):
        return run(x, kernel)


@pytest.mark.parametrize(
    ("name", "many"), [*((name, 1) for name in CASES), ("odd", 10**6), ("time alone", 10**6), ("groups", 10**6)]
)
def test_it_is_the_convolution_of_three_axes(name, many, monkeypatch):
    monkeypatch.setattr(volume, "MANY_PIXELS", many)
    with jax.enable_x64(True):
        x, kernel, options = arrays(name)
        ours = value_and_gradients(x, kernel, options, "cpu")
        plain = value_and_gradients(x, kernel, options, "tpu")
    for one, other in zip(ours, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)


def products(program):
    """The convolutions of a lowered program."""
    return [line for line in program.as_text().splitlines() if "stablehlo.convolution" in line]


def test_two_frames_take_four_products(monkeypatch):
    x, kernel, options = arrays("even", np.float32)

    def lowered():
        with forms_of("cpu"):
            return jax.jit(lambda x, kernel: volume.volume(x, kernel, **options)).lower(x, kernel)

    assert len(products(lowered())) == 1, "few pixels: one product over all frames"
    monkeypatch.setattr(volume, "MANY_PIXELS", 1)
    assert len(products(lowered())) == 4
    assert all("6x7x5x5xf32" in line for line in products(lowered())), "2 clips of 3 pairs, not of 6 frames"


def test_sums_of_16_bits_are_not_rounded():
    x, kernel, options = arrays("even", jnp.bfloat16)
    x = jnp.tile(x, (1, 4, 4, 4, 1))  # many pixels
    with forms_of("cpu"):
        ours = jax.jit(lambda x, kernel: volume.volume(x, kernel, **options))(x, kernel)
    with forms_of("tpu"):
        wide = jax.jit(lambda x, kernel: volume.volume(x, kernel, **options))
        exact = wide(x.astype(np.float32), kernel.astype(np.float32))
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(ours.astype(np.float32), exact, rtol=2**-8, atol=1e-5)
