"""Group normalisation beside flax's and torch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from resnet_jax.models import GroupNorm

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.usefixtures("compile_quickly")


@pytest.mark.parametrize(
    ("shape", "groups"), [((3, 5, 7, 12), 4), ((2, 1, 1, 6), 1), ((2, 3, 5, 4, 8), 8), ((4, 6), 2)]
)
def test_values_and_gradients_are_those_of_torch(shape, groups):
    rng = np.random.default_rng(0)
    x, weights = rng.normal(3, 5, (2, *shape))
    scale, bias = rng.normal(size=(2, shape[-1]))
    theirs = torch.nn.GroupNorm(groups, shape[-1], dtype=torch.float64)
    theirs.weight.data, theirs.bias.data = torch.tensor(scale), torch.tensor(bias)
    seen = torch.tensor(np.moveaxis(x, -1, 1), requires_grad=True)
    expected = theirs(seen)
    (expected * torch.tensor(np.moveaxis(weights, -1, 1))).sum().backward()
    with jax.enable_x64(True):
        norm = GroupNorm(groups)
        apply = lambda params, x: norm.apply({"params": params}, x)
        ours, back = jax.vjp(apply, {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)}, jnp.asarray(x))
        of_params, of_x = back(jnp.asarray(weights))
    close = {"rtol": 1e-11, "atol": 1e-11}
    np.testing.assert_allclose(ours, np.moveaxis(expected.detach().numpy(), 1, -1), **close)
    np.testing.assert_allclose(of_x, np.moveaxis(seen.grad.numpy(), 1, -1), **close)
    np.testing.assert_allclose(of_params["scale"], theirs.weight.grad, **close)
    np.testing.assert_allclose(of_params["bias"], theirs.bias.grad, **close)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_it_is_flax_s_with_the_same_parameters(dtype):
    x = jnp.asarray(np.random.default_rng(1).normal(2, 3, (3, 6, 5, 16)), dtype)
    ours, theirs = GroupNorm(8, dtype=dtype), nn.GroupNorm(8, epsilon=1e-5, use_fast_variance=False, dtype=dtype)
    variables = ours.init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, theirs.init(jax.random.key(0), x))
    found, expected = ours.apply(variables, x), theirs.apply(variables, x)
    assert found.dtype == expected.dtype == dtype
    close = 1e-5 if dtype == jnp.float32 else 2e-2
    np.testing.assert_allclose(np.asarray(found, np.float32), np.asarray(expected, np.float32), rtol=close, atol=close)
