"""Layers of integers beside sums in float64, and beside PyTorch's quantised layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from resnet_jax.compress.quantize import Grid
from resnet_jax.compress.quantize.integers import products
from resnet_jax.compress.quantize.scales import to_integers
from resnet_jax.models import Conv
from resnet_jax.models.forms import forms_of

pytestmark = pytest.mark.usefixtures("compile_quickly")

LAYERS = {  # the layer, and the channels of its input
    "3x3": (Conv(5, 3), 7),
    "3x3, strided and dilated": (Conv(4, 3, stride=2, dilation=2), 6),
    "3x3 of groups": (Conv(6, 3, stride=2, groups=3), 9),
    "more channels than float32 adds exactly at once": (Conv(3, 3), 130),
    "groups of more channels than that": (Conv(4, 3, groups=2), 140),
    "4x4 with uneven padding": (Conv(5, 4, padding=(2, 1)), 12),
    "7x7": (Conv(3, 7, stride=2), 3),
    "1x1, strided": (Conv(5, 1, stride=2), 7),
    "1x1 of groups": (Conv(6, 1, groups=2), 4),
    "fc": (nn.Dense(5), 600),
}


def draw(module, channels, seed=0, sides=(9, 12), extreme=False):
    """Integers of a layer's input and kernel, and a zero point. The extreme ones make the largest sums."""
    rng = np.random.default_rng(seed)
    shape = (3, channels) if isinstance(module, nn.Dense) else (2, *sides, channels)
    kernel = (
        (channels, module.features)
        if isinstance(module, nn.Dense)
        else (module.kernel_size,) * 2 + (channels // module.groups, module.features)
    )
    if extreme:
        return np.full(shape, 255, np.uint8), 0, np.where(rng.random(kernel) < 0.01, -127, 127).astype(np.int8)
    return (
        rng.integers(0, 256, shape).astype(np.uint8),
        int(rng.integers(0, 256)),
        rng.integers(-127, 128, kernel).astype(np.int8),
    )


def exact_sums(module, x, zero_point, kernel):
    """In float64 by torch, where every such sum is exact."""
    torch = pytest.importorskip("torch")
    shifted = torch.from_numpy(x.astype(np.float64) - zero_point)
    if isinstance(module, nn.Dense):
        return (shifted @ torch.from_numpy(kernel.astype(np.float64))).numpy()
    shifted = shifted.permute(0, 3, 1, 2)
    if module.padding:
        before, after = module.padding
        shifted, pad = torch.nn.functional.pad(shifted, (before, after, before, after)), 0
    else:
        pad = (module.kernel_size - 1) // 2 * module.dilation
    weight = torch.from_numpy(kernel.astype(np.float64)).permute(3, 2, 0, 1)
    y = torch.nn.functional.conv2d(
        shifted, weight, stride=module.stride, padding=pad, dilation=module.dilation, groups=module.groups
    )
    return y.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("platform", ["tpu", "cpu"])
@pytest.mark.parametrize("name", LAYERS)
def test_sums_are_exact_in_all_forms(name, platform):
    """`cpu` and `cuda` multiply in float32, `tpu` in integers."""
    module, channels = LAYERS[name]
    for extreme in (False, True):
        x, zero_point, kernel = draw(module, channels, extreme=extreme)
        with forms_of(platform):
            compute = jax.jit(lambda x, z, k: products(module, x, z, k, (8, 8)))
            total = compute(x, jnp.int32(zero_point), kernel)
        assert total.dtype == jnp.int32
        assert np.array_equal(total, exact_sums(module, x, zero_point, kernel))


def test_the_simulated_form_would_be_wrong_without_parts():
    """So the test above can fail: sums of this size are beyond float32."""
    module, channels = LAYERS["more channels than float32 adds exactly at once"]
    x, zero_point, kernel = draw(module, channels, extreme=True)
    with forms_of("cpu"):
        total = products(module, x, jnp.int32(zero_point), kernel, (2, 2))  # the bits say that sums are small
    assert not np.array_equal(total, exact_sums(module, x, zero_point, kernel))


def quantised(module, x, grid, kernel, scale, bias, out):
    """The integers that the layer puts out, by this package."""
    total = np.asarray(products(module, x, grid.zero_point, kernel, (8, 8))) + bias
    factor = np.float32(grid.scale) * scale.astype(np.float32)
    return np.asarray(to_integers(total.astype(np.float32) * factor, out, 8))


def layer_with_grids(module, channels, powers_of_two, seed):
    """Integers and the grids of a layer. Small integers and powers of two make many halves, and no other rounding."""
    rng = np.random.default_rng(seed)
    x, _, kernel = draw(module, channels, seed=seed, sides=(17, 23))
    if powers_of_two:
        x, kernel = x % 16, (kernel % 9 - 4).astype(np.int8)
        scale, scales, out = 2.0**-5, 2.0 ** rng.integers(0, 3, module.features), 0.5
        bias = rng.integers(-200, 200, module.features)
    else:
        scale, scales, out = rng.uniform(0.01, 0.1), rng.uniform(0.001, 0.02, module.features), rng.uniform(0.1, 0.5)
        bias = rng.integers(-5000, 5000, module.features)
    grids = Grid(jnp.float32(scale), jnp.int32(3)), Grid(jnp.float32(out), jnp.int32(120))
    return x, kernel, scales.astype(np.float32), bias.astype(np.int32), *grids


@pytest.mark.parametrize("powers_of_two", [True, False])
@pytest.mark.parametrize("name", ["3x3", "1x1, strided", "fc"])
def test_integers_are_those_of_a_plain_reference(name, powers_of_two):
    """PyTorch's definition: exact sums, one rounding, halves to even."""
    module, channels = LAYERS[name]
    x, kernel, scale, bias, grid, out = layer_with_grids(module, channels, powers_of_two, seed=3)
    ours = quantised(module, x, grid, kernel, scale, bias, out)
    sums = exact_sums(module, x, int(grid.zero_point), kernel) + bias
    exact = sums * (np.float64(grid.scale) * scale.astype(np.float64) / np.float64(out.scale))
    reference = np.clip(np.rint(exact) + int(out.zero_point), 0, 255)
    near_half = np.abs(np.abs(exact - np.trunc(exact)) - 0.5) < (0 if powers_of_two else 1e-4)
    assert np.array_equal(ours[~near_half], reference[~near_half])
    assert near_half.mean() < 2e-3
    assert len(np.unique(reference)) > 9
    assert np.mean(exact % 1 == 0.5) > 0.03 or not powers_of_two, "halves are tested too"


def torch_saturates(torch):
    """Whether int8 products are added in 16 bits, as on CPUs without VNNI."""
    x = torch.quantize_per_tensor(torch.full((1, 4, 1, 1), 255.0), 1.0, 0, torch.quint8)
    w = torch.quantize_per_tensor(torch.full((1, 4, 1, 1), 127.0), 1.0, 0, torch.qint8)
    packed = torch.ops.quantized.conv2d_prepack(w, None, [1, 1], [0, 0], [1, 1], 1)
    return int(torch.ops.quantized.conv2d(x, packed, 1024.0, 0).int_repr()) != round(4 * 255 * 127 / 1024)


@pytest.mark.filterwarnings("ignore:torch.quantize_per")
@pytest.mark.parametrize("name", ["3x3", "3x3, strided and dilated", "3x3 of groups", "1x1, strided", "fc"])
def test_integers_are_those_of_torch(name):
    torch = pytest.importorskip("torch")
    if torch_saturates(torch):
        pytest.skip("this CPU has no VNNI, and torch's kernels add int8 products in 16 bits, which overflow")
    module, channels = LAYERS[name]
    x, kernel, scale, bias, grid, out = layer_with_grids(module, channels, True, seed=5)
    ours = quantised(module, x, grid, kernel, scale, bias, out)

    last = torch.from_numpy(x.astype(np.float32) - int(grid.zero_point)) * float(grid.scale)
    weight = torch.from_numpy(kernel.astype(np.float32) * scale.astype(np.float32))
    bias = torch.from_numpy((bias * float(grid.scale) * scale).astype(np.float32))
    dense = isinstance(module, nn.Dense)
    weight, last = (weight.T, last) if dense else (weight.permute(3, 2, 0, 1), last.permute(0, 3, 1, 2))
    of_channels = torch.from_numpy(scale.astype(np.float64)), torch.zeros(len(scale), dtype=torch.int64)
    weight = torch.quantize_per_channel(weight.contiguous(), *of_channels, 0, torch.qint8)
    last = torch.quantize_per_tensor(last.contiguous(), float(grid.scale), int(grid.zero_point), torch.quint8)
    ends = float(out.scale), int(out.zero_point)
    if dense:
        theirs = torch.ops.quantized.linear(last, torch.ops.quantized.linear_prepack(weight, bias), *ends).int_repr()
    else:
        pad = (module.kernel_size - 1) // 2 * module.dilation
        sides = ([module.stride] * 2, [pad] * 2, [module.dilation] * 2, module.groups)
        packed = torch.ops.quantized.conv2d_prepack(weight, bias, *sides)
        theirs = torch.ops.quantized.conv2d(last, packed, *ends).int_repr().permute(0, 2, 3, 1)
    assert np.array_equal(ours, theirs.numpy())
