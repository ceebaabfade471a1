"""The integers that stand for numbers: `number = (integer - zero_point) * scale`.

Activations have one scale and one zero point for a whole tensor, and integers without a sign. Kernels have one scale
for each output channel and no zero point (Krishnamoorthi 2018, arXiv:1806.08342, section 3; PyTorch's and TensorRT's
choice). Numbers are rounded to the nearest integer, and halves to the even one.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int8, UInt8

MANTISSA = 16
"""Bits of the scale of a tensor. An integer has 8 more at most, so what it stands for is exact in float32. Two programs
for the same sum then agree, though one of them may fuse the product and the sum."""


class Grid(NamedTuple):
    """The numbers that the integers of a tensor stand for."""

    scale: Float[Array, ""]
    zero_point: Int[Array, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Scales:
    """How a network is quantised. A tensor or kernel without an entry stays as it is.

    Attributes:
      tensors: by the name of the place where a tensor is quantised (see `placement`).
      kernels: of each output channel, by the name of the layer.
      reads: (layer, the name of the tensor that it reads), for each layer of `kernels`.
    """

    tensors: Mapping[str, Grid]
    kernels: Mapping[str, Float[Array, " O"]]
    reads: tuple[tuple[str, str], ...] = field(metadata={"static": True})
    weight_bits: int = field(metadata={"static": True})
    activation_bits: int = field(metadata={"static": True})


def largest_activation(bits: int) -> int:
    """The integers of activations begin at 0 and end here."""
    return 2**bits - 1


def largest_weight(bits: int) -> int:
    """The integers of kernels lie between minus this and this: one less than there are, for symmetry."""
    return 2 ** (bits - 1) - 1


def grid_of(low: float, high: float, bits: int) -> Grid:
    """The grid for numbers from `low` to `high`."""
    scale, zero_point = scale_and_zero_point(low, high, bits)
    return Grid(jnp.float32(scale), jnp.int32(zero_point))


def scale_and_zero_point(low: float, high: float, bits: int) -> tuple[float, int]:
    """Of the grid for numbers from `low` to `high`. 0 is one of its numbers, since convolutions pad with it."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = short((high - low) / largest_activation(bits)) if high > low else 1.0
    return scale, min(round(-low / scale), largest_activation(bits))


def short(scale: float) -> float:
    """The next number that has at most `MANTISSA` bits, see there."""
    part, exponent = math.frexp(scale)
    return math.ldexp(math.ceil(math.ldexp(part, MANTISSA)), exponent - MANTISSA)


def to_integers(x: Float[Array, "..."], grid: Grid, bits: int) -> UInt8[Array, "..."]:
    """ONNX's `QuantizeLinear`. What lies beyond the grid becomes its end."""
    return jnp.clip(jnp.round(x / grid.scale) + grid.zero_point, 0, largest_activation(bits)).astype(jnp.uint8)


def to_numbers(integers: UInt8[Array, "..."], grid: Grid) -> Float[Array, "..."]:
    """ONNX's `DequantizeLinear`."""
    return (integers.astype(jnp.int32) - grid.zero_point).astype(jnp.float32) * grid.scale


def kernel_integers(kernel: Float[Array, "*S O"], scale: Float[Array, " O"], bits: int) -> Int8[Array, "*S O"]:
    largest = largest_weight(bits)
    return jnp.clip(jnp.round(kernel / of_channels(scale, kernel)), -largest, largest).astype(jnp.int8)


def kernel_numbers(integers: Int8[Array, "*S O"], scale: Float[Array, " O"]) -> Float[Array, "*S O"]:
    return integers.astype(jnp.float32) * of_channels(scale, integers)


def rounded(x: Float[Array, "..."], grid: Grid, bits: int) -> Float[Array, "..."]:
    """The nearest number of the grid. Its derivative is 1 within the grid and 0 beyond (the straight-through estimator,
    Bengio et al. 2013, arXiv:1308.3432)."""
    low, high = ((end - grid.zero_point) * grid.scale for end in (0, largest_activation(bits)))
    return _with_derivative_of(to_numbers(to_integers(x, grid, bits), grid), jnp.clip(x, low, high))


def rounded_kernel(kernel: Float[Array, "*S O"], scale: Float[Array, " O"], bits: int) -> Float[Array, "*S O"]:
    """As `rounded`, of a kernel."""
    end = largest_weight(bits) * of_channels(scale, kernel)
    return _with_derivative_of(kernel_numbers(kernel_integers(kernel, scale, bits), scale), jnp.clip(kernel, -end, end))


def _with_derivative_of(value: Array, other: Array) -> Array:
    return jax.lax.stop_gradient(value) + (other - jax.lax.stop_gradient(other))


def of_channels(numbers: Array, like: Any) -> Array:
    """A number for each channel, with as many axes as `like` has."""
    return numbers.reshape(*[1] * (like.ndim - 1), -1)
