"""Muon against timm's, and what of a network it is for."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from resnet_jax.config import OptimConfig
from resnet_jax.errors import ConfigError
from resnet_jax.training.optim import make_optimizer
from resnet_jax.training.rules import orthogonal

SHAPES = {
    "conv1": {"kernel": (3, 3, 5, 4)},  # taller than wide
    "conv2": {"kernel": (1, 1, 4, 16)},  # wider than tall; timm leaves kernels of fewer channels to AdamW
    "classifier": {"kernel": (1, 1, 6, 3)},
    "bn1": {"scale": (4,)},
    "fc": {"kernel": (6, 3)},
}
MUON = OptimConfig(optimizer="muon", weight_decay=0.05, no_decay=("bn",), muon_without=("^classifier/",))


def draw(rng):
    is_shape = lambda x: isinstance(x, tuple)
    return jax.tree.map(lambda shape: jnp.asarray(rng.normal(size=shape)), SHAPES, is_leaf=is_shape)


def to_torch(array):
    """With the outputs first, as torch's kernels are."""
    array = np.asarray(array)
    return torch.tensor(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T.copy())


@pytest.mark.parametrize("steps", [3, 5])
def test_it_is_timms(monkeypatch, torchvision, steps):  # without torchvision's operators timm cannot be imported
    timm = pytest.importorskip("timm.optim.muon")
    exact = partial(timm.zeropower_via_newtonschulz, dtype=torch.float64)  # timm computes in bfloat16
    monkeypatch.setattr(timm, "zeropower_via_newtonschulz", exact)
    rng, rates = np.random.default_rng(0), [0.1, 0.3, 0.02, 0.5]
    with jax.enable_x64(True):
        params = draw(rng)
        rule = make_optimizer(
            replace(MUON, muon_steps=steps, momentum=0.9, nesterov=False), lambda step: jnp.asarray(rates)[step]
        )
        state = rule.init(params)
        tensors = {name: to_torch(*module.values()).requires_grad_() for name, module in params.items()}
        groups = [
            {"params": [tensors["conv1"], tensors["conv2"]], "weight_decay": 0.05},
            {"params": [tensors["classifier"], tensors["fc"]], "weight_decay": 0.05, "use_fallback": True},
            {"params": [tensors["bn1"]], "weight_decay": 0.0, "use_fallback": True},
        ]
        theirs = timm.Muon(
            groups, lr=1.0, momentum=0.9, nesterov=False, ns_steps=steps, ns_coefficients="original",
            adjust_lr_fn="match_rms_adamw", betas=(0.9, 0.999), algo="muon",
        )  # fmt: skip
        for rate in rates:
            gradients = draw(rng)
            updates, state = rule.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
            for group in theirs.param_groups:
                group["lr"] = rate
            for name, tensor in tensors.items():
                tensor.grad = to_torch(*gradients[name].values())
            theirs.step()
        for name, tensor in tensors.items():
            (ours,) = params[name].values()
            np.testing.assert_allclose(to_torch(ours).numpy(), tensor.detach().numpy(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("shape", [(3, 3, 8, 16), (1, 1, 40, 8), (8, 8)])
def test_a_step_is_as_large_in_all_directions(shape):
    """And its numbers are as large as AdamW's, which are about 0.2."""
    update = np.random.default_rng(1).normal(size=shape) @ np.diag(10.0 ** np.linspace(-1, 1, shape[-1]))
    with jax.enable_x64(True):
        step, _ = orthogonal(5).update(jnp.asarray(update), optax.EmptyState())
    matrix = np.asarray(step).reshape(-1, shape[-1])
    values = np.linalg.svd(matrix, compute_uv=False) / (0.2 * np.sqrt(max(matrix.shape)))
    assert values.min() > 0.6
    assert values.max() < 1.25
    assert 0.12 < np.sqrt(np.mean(matrix**2)) < 0.25
    left, _, right = np.linalg.svd(update.reshape(matrix.shape), full_matrices=False)
    assert np.abs(left.T @ matrix @ right.T - np.diag(np.diag(left.T @ matrix @ right.T))).max() < 1e-9


def test_nesterovs_step_looks_ahead():
    kernel = {"conv": {"kernel": jnp.zeros((1, 1, 4, 4))}}
    rng = np.random.default_rng(0)
    first, second = ({"conv": {"kernel": jnp.asarray(rng.normal(size=(1, 1, 4, 4)))}} for _ in range(2))
    rule = make_optimizer(replace(MUON, weight_decay=0.0, nesterov=True), optax.constant_schedule(1.0))
    state = rule.init(kernel)
    _, state = rule.update(first, state, kernel)
    ours, _ = rule.update(second, state, kernel)
    sought = jax.tree.map(lambda a, b: b + 0.9 * (b + 0.9 * a), first, second)
    expected, _ = orthogonal(5).update(sought, optax.EmptyState())
    np.testing.assert_allclose(ours["conv"]["kernel"], -expected["conv"]["kernel"], rtol=1e-5, atol=1e-6)


def test_without_a_gradient_it_stands_still():
    step, _ = orthogonal(5).update({"kernel": jnp.zeros((3, 3, 2, 2))}, optax.EmptyState())
    np.testing.assert_array_equal(step["kernel"], 0)


def test_a_pattern_that_is_none():
    with pytest.raises(ConfigError, match=r"OptimConfig.muon_without\[0\] = '\(' is no regular expression"):
        OptimConfig(muon_without=("(",))
