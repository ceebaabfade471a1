"""3x3 convolutions by rows in pairs against XLA's convolution."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.models import winograd
from resnet_jax.models.forms import forms_of
from resnet_jax.models.layers import Conv

pytestmark = pytest.mark.usefixtures("compile_quickly")


def plain(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))


def convolutions(function, *arguments):
    """Of the program for CPUs."""
    with forms_of("cpu"):
        return jax.jit(function).lower(*arguments).as_text().count("stablehlo.convolution")


@pytest.mark.parametrize("height", [1, 2, 5, 8])
def test_it_is_the_convolution(height, monkeypatch):
    monkeypatch.setattr(winograd, "MANY_PIXELS", 1)
    monkeypatch.setattr(winograd, "MANY_CHANNELS", 3)
    rng = np.random.default_rng(height)
    with jax.enable_x64(True), forms_of("cpu"):
        x, kernel = (jnp.asarray(rng.normal(size=shape)) for shape in ((2, height, 7, 5), (3, 3, 5, 3)))
        assert convolutions(winograd.three_by_three, x, kernel) == 4
        ours = jax.jit(lambda x, kernel: winograd.three_by_three(x, kernel))(x, kernel)
        np.testing.assert_allclose(ours, plain(x, kernel), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("options", "shape", "dtype", "count"),
    [
        ({}, (2, 48, 48, 128), np.float32, 4),
        ({}, (2, 40, 40, 128), np.float32, 1),
        ({}, (2, 48, 48, 64), np.float32, 1),
        ({}, (2, 48, 48, 128), jnp.bfloat16, 1),
        ({"stride": 2}, (2, 48, 48, 128), np.float32, 1),
        ({"dilation": 2}, (2, 48, 48, 128), np.float32, 1),
        ({"groups": 2}, (2, 48, 48, 128), np.float32, 1),
        ({"padding": (0, 0)}, (2, 48, 48, 128), np.float32, 1),
        ({"kernel_size": 5}, (2, 48, 48, 128), np.float32, 1),
    ],
)
def test_when_rows_are_taken_in_pairs(options, shape, dtype, count):
    conv = Conv(128, **{"kernel_size": 3, **options}, dtype=dtype)
    x = jax.ShapeDtypeStruct(shape, dtype)
    variables = jax.eval_shape(conv.init, jax.random.key(0), x)
    assert convolutions(conv.apply, variables, x) == count


def test_training_has_the_plain_form():
    x, kernel = jax.ShapeDtypeStruct((2, 48, 48, 128), np.float32), jax.ShapeDtypeStruct((3, 3, 128, 128), np.float32)
    value_and_gradients = jax.value_and_grad(lambda *a: jnp.sum(jnp.sin(winograd.three_by_three(*a))), argnums=(0, 1))
    assert convolutions(value_and_gradients, x, kernel) == 3, "the result, and the gradients of both"


def test_accelerators_have_the_plain_form():
    x, kernel = jax.ShapeDtypeStruct((2, 48, 48, 128), np.float32), jax.ShapeDtypeStruct((3, 3, 128, 128), np.float32)
    for platform in ("cuda", "tpu"):
        with forms_of(platform):
            program = jax.jit(partial(winograd.three_by_three)).lower(x, kernel).as_text()
        assert program.count("stablehlo.convolution") == 1


def test_float32_loses_little():
    """The sums of the input and of the kernel are rounded, too."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(1, 64, 64, 128)), rng.normal(size=(3, 3, 128, 128)) / 34
    with forms_of("cpu"):
        ours = jax.jit(partial(winograd.three_by_three))(x.astype(np.float32), kernel.astype(np.float32))
    with jax.enable_x64(True):
        exact = jax.jit(plain)(x, kernel)
    np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-5)
