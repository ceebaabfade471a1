"""The sum that a block puts out is itself, and on a CPU it is computed once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.models import ResNet, variable_shapes
from resnet_jax.models.forms import forms_of, summed_once


@pytest.mark.parametrize("dtype", [np.float32, np.float64, jnp.bfloat16, np.float16])
def test_it_changes_no_number(dtype):
    with jax.enable_x64(True), forms_of("cpu"):
        plain = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, *np.random.default_rng(0).normal(size=500) * 100]
        tiny, huge = jnp.finfo(dtype).tiny, jnp.finfo(dtype).max
        x = jnp.asarray([*plain, tiny, -tiny, huge, -huge], dtype)
        exact = lambda array: np.asarray(array, np.float64)  # NumPy does not know bfloat16's nan
        np.testing.assert_array_equal(exact(jax.jit(summed_once)(x)), exact(x))
        assert np.signbit(exact(summed_once(x))[1])
        np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(summed_once(x)))(x[7:]), jnp.ones_like(x[7:]))


@pytest.mark.parametrize(
    "block", ["bottleneck", *(pytest.param(block, marks=pytest.mark.slow) for block in ("basic", "preact_bottleneck"))]
)
def test_memory_does_not_grow_with_the_blocks(block):
    """Where each block computes the sum of all branches before it, all of them must be kept."""

    def memory(blocks):
        model = ResNet(block, (blocks,), width=8, num_classes=3)
        images = jax.ShapeDtypeStruct((4, 64, 64, 3), jnp.float32)
        program = jax.jit(lambda variables, images: model.apply(variables, images, train=False))
        with forms_of("cpu"):
            return program.lower(variable_shapes(model), images).compile().memory_analysis().temp_size_in_bytes

    # Without `summed_once` it is 1.7 times as much.
    assert memory(16) < 1.1 * memory(8)
