"""Layers and norms along one axis and three, against torch in float64; those along two are tested everywhere else."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from resnet_jax.errors import ModelError
from resnet_jax.models.layers import POOLS, Conv, SqueezeExcite, stochastic_depth
from resnet_jax.models.norms import BatchNorm
from resnet_jax.models.pooling import blur_pool, halving_average_pool, max_pool, smoothing_average_pool
from resnet_jax.models.shortcuts import SHORTCUTS
from resnet_jax.weights.names import to_our_axes, to_torch_axes

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.usefixtures("compile_quickly")

SIDES = {1: (9,), 2: (8, 7), 3: (5, 8, 7)}
KERNEL = ("params", "conv", "kernel")


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def to_torch(x):
    return torch.tensor(np.moveaxis(x, -1, 1).copy(), requires_grad=True)


def close(ours, theirs):
    np.testing.assert_allclose(ours, np.moveaxis(theirs.detach().numpy(), 1, -1), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("axes", "fields", "padding"),
    [
        (1, {"kernel_size": 3, "stride": 2}, 1),
        (1, {"kernel_size": 5, "dilation": 2, "groups": 2}, 4),
        (3, {"kernel_size": 3, "stride": 2}, 1),
        (3, {"kernel_size": (1, 3, 3), "stride": (1, 2, 2)}, (0, 1, 1)),
        (3, {"kernel_size": (3, 1, 1), "stride": (2, 1, 1), "use_bias": True}, (1, 0, 0)),
        (3, {"kernel_size": (3, 7, 7), "stride": (1, 2, 2), "dilation": (2, 1, 1)}, (2, 3, 3)),
        (3, {"kernel_size": 1, "stride": 2}, 0),
        (3, {"kernel_size": 3, "groups": 2, "padding": (0, 0)}, 0),
        (2, {"kernel_size": (3, 1), "stride": (2, 1)}, (1, 0)),
        (2, {"kernel_size": 1, "stride": (1, 2)}, 0),
    ],
    ids=str,
)
def test_convolutions_are_torchs(axes, fields, padding):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *SIDES[axes], 4))
    conv = Conv(6, param_dtype=jnp.float64, **fields)
    variables = jax.jit(conv.init)(jax.random.key(0), x)
    module = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}[axes](
        4, 6, fields["kernel_size"], fields.get("stride", 1), padding, fields.get("dilation", 1),
        fields.get("groups", 1), bias=fields.get("use_bias", False), dtype=torch.float64,
    )  # fmt: skip
    kernel = np.asarray(variables["params"]["kernel"])
    there = to_torch_axes(kernel, KERNEL)
    np.testing.assert_array_equal(to_our_axes(there, KERNEL), kernel)
    with torch.no_grad():
        assert tuple(module.weight.shape) == there.shape
        module.weight.copy_(torch.tensor(there.copy()))
        if module.bias is not None:
            module.bias.zero_()
    tensor = to_torch(x)
    theirs = module(tensor)
    theirs.sin().sum().backward()
    value = lambda v, x: (jnp.sum(jnp.sin(y := conv.apply(v, x))), y)
    (of_kernel, of_x), ours = jax.jit(jax.grad(value, argnums=(0, 1), has_aux=True))(variables, x)
    close(ours, theirs)
    close(of_x, tensor.grad)
    np.testing.assert_allclose(
        to_torch_axes(np.asarray(of_kernel["params"]["kernel"]), KERNEL), module.weight.grad, rtol=1e-10, atol=1e-11
    )


@pytest.mark.parametrize("one_pass", [False, True])
@pytest.mark.parametrize("axes", [0, 1, 3])
def test_batch_norm_is_torchs(axes, one_pass):
    rng = np.random.default_rng(1)
    x = rng.normal(2, 3, size=(6, *SIDES.get(axes, ()), 4))
    scale, bias, mean, var = rng.normal(size=(4, 4))
    module = {0: torch.nn.BatchNorm1d, 1: torch.nn.BatchNorm1d, 3: torch.nn.BatchNorm3d}[axes](4, dtype=torch.float64)
    with torch.no_grad():
        for parameter, value in zip(
            (module.weight, module.bias, module.running_mean, module.running_var),
            (scale, bias, mean, var**2),
            strict=True,
        ):
            parameter.copy_(torch.tensor(value))
    tensor = to_torch(x)
    theirs = module(tensor)
    theirs.sin().sum().backward()
    norm = BatchNorm(use_batch_stats=True, update_stats=True, one_pass=one_pass, param_dtype=jnp.float64)
    stats = {"mean": mean, "var": var**2}

    def value(params, x):
        y, updates = norm.apply({"params": params, "batch_stats": stats}, x, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(y)), (y, updates["batch_stats"])

    program = jax.jit(jax.grad(value, argnums=(0, 1), has_aux=True))
    gradients, (y, moved) = program({"scale": scale, "bias": bias}, x)
    close(y, theirs)
    close(gradients[1], tensor.grad)
    np.testing.assert_allclose(gradients[0]["scale"], module.weight.grad, rtol=1e-10)
    np.testing.assert_allclose(moved["mean"], module.running_mean, rtol=1e-12)
    np.testing.assert_allclose(moved["var"], module.running_var, rtol=1e-12)


def test_batch_norm_in_groups_of_clips():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(6, *SIDES[3], 4))
    norm = BatchNorm(use_batch_stats=True, update_stats=False, group_size=2, param_dtype=jnp.float64)
    whole = norm.clone(group_size=0)
    variables = norm.init(jax.random.key(0), x)
    alone = jax.jit(whole.apply)
    apart = np.concatenate([alone(variables, x[i : i + 2]) for i in (0, 2, 4)])
    np.testing.assert_allclose(jax.jit(norm.apply)(variables, x), apart, rtol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.bfloat16])
@pytest.mark.parametrize("axes", [1, 3])
def test_max_pool_is_torchs(axes, dtype):
    x = np.random.default_rng(3).integers(-9, 9, size=(2, *SIDES[axes], 3)).astype(np.float64)
    pool = {1: torch.nn.functional.max_pool1d, 3: torch.nn.functional.max_pool3d}[axes]
    ours = jax.jit(lambda x: max_pool(x))(jnp.asarray(x, dtype))
    close(np.asarray(ours, np.float64), pool(to_torch(x), 3, 2, 1))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_average_and_blur_pools_are_torchs(axes):
    x = np.random.default_rng(5).normal(size=(2, *SIDES[axes], 3))
    functional, there = torch.nn.functional, to_torch(x)
    average = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}[axes]
    close(halving_average_pool(x), average(there, 2, 2, 0, ceil_mode=True, count_include_pad=False))
    of_frames = ((0, 1) * 2, (1, 2, 2)) if axes == 3 else ((0, 1) * axes, 2)
    close(smoothing_average_pool(x), average(functional.pad(there, of_frames[0]), of_frames[1], 1))
    filter_ = functools.reduce(np.multiply.outer, [np.array([1, 2, 1]) / 4] * axes)
    convolve = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[axes]
    kernel = torch.tensor(filter_)[None, None].expand(3, 1, *[3] * axes)
    blurred = convolve(functional.pad(there, (1, 1) * axes, mode="reflect"), kernel, stride=2, groups=3)
    close(blur_pool(x, 2), blurred)


@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_shortcuts_of_clips_are_those_of_their_frames(shortcut):
    """Of clips whose frames, two and two, are alike: what subsamples along time takes one of the two."""
    frames = np.random.default_rng(6).normal(size=(2, 8, 7, 4))
    clips = np.repeat(frames[:, None], 4, axis=1)

    class Only(nn.Module):
        stride: int

        @nn.compact
        def __call__(self, x):
            norm = functools.partial(BatchNorm, use_batch_stats=False, update_stats=False, param_dtype=jnp.float64)
            conv = functools.partial(Conv, param_dtype=jnp.float64)
            parts = SimpleNamespace(conv=conv, norm=norm)
            block = SimpleNamespace(
                stride=self.stride, dilations=(1, 1), preactivation=False, parts=parts, smooth=lambda x: x
            )
            return SHORTCUTS[shortcut](block, x, 6)

    for stride in (1, 2):
        only = Only(stride)
        variables = jax.jit(only.init)(jax.random.key(0), frames)
        of_frames = jax.jit(only.apply)(variables, frames)
        if of_frames is None:
            continue
        wide = jax.tree.map(lambda leaf: leaf[None] if leaf.ndim == 4 else leaf, variables)
        np.testing.assert_allclose(
            jax.jit(only.apply)(wide, clips), np.repeat(of_frames[:, None], 4 // stride, axis=1), rtol=1e-10
        )


def test_what_is_taken_over_all_axes():
    x = np.random.default_rng(4).normal(size=(3, *SIDES[3], 16))
    np.testing.assert_allclose(POOLS["avg"](x), x.mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(POOLS["max"](x), x.max(axis=(1, 2, 3)))
    gate = SqueezeExcite(4, lambda *a, **k: Conv(*a, param_dtype=jnp.float64, **k))
    ratio = gate.init_with_output(jax.random.key(0), x)[0] / x
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1, :1, :1], x.shape))
    clips = np.tile(x, (4, 1, 1, 1, 1))
    kept = np.abs(np.round(stochastic_depth(clips, jax.random.key(1), 0.5) / clips, 9))
    assert {float(factor) for factor in np.unique(kept)} == {0.0, 2.0}
    assert all(np.unique(clip).size == 1 for clip in kept)


@pytest.mark.parametrize(
    ("fields", "shape", "message"),
    [
        ({"kernel_size": (1, 3, 3)}, (2, 8, 8, 4), r"Conv.kernel_size = \(1, 3, 3\) does not fit.*has 2 axes"),
        ({"kernel_size": 3, "stride": (1, 2)}, (2, 4, 8, 8, 4), r"Conv.stride = \(1, 2\) does not fit.*has 3 axes"),
        ({"kernel_size": 3}, (2, 4), "has 0 axes between images and channels; give one number"),
    ],
)
def test_fields_of_another_number_of_axes_are_refused(fields, shape, message):
    with pytest.raises(ModelError, match=message):
        Conv(6, **fields).init(jax.random.key(0), jnp.zeros(shape))
