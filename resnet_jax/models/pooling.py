"""Pooling with PyTorch's semantics, in NHWC layout: what a window at the border takes in is explicit."""

from dataclasses import dataclass
from functools import partial, reduce
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Int

from resnet_jax.models.forms import per_platform


def max_pool(x: Float[Array, "N *S C"], stride: int = 2) -> Float[Array, "N *S2 C"]:
    """3x3, padded by -inf as torch's `MaxPool2d(3, stride, 1)`; SAME would pad an even side at one end. Likewise
    3x3x3 of (N, T, H, W, C), and 3 of (N, T, C).

    Where a window holds its maximum several times, the first in reading order gets the gradient, as in torch.
    """
    if x.ndim != 4:
        return _by_windows(stride, x)
    short = x.dtype.itemsize == 2
    return per_platform(
        x,
        tpu=partial(_by_windows, stride),
        cuda=partial(_by_keys if short else _by_comparisons, stride),
        default=partial(_by_comparisons, stride),
    )


def _by_windows(stride: int, x: Array) -> Array:
    """XLA's own, a tenth of the cycles of the others on a TPU. On a CPU its gradient keeps four arrays of indices."""
    axes = x.ndim - 2
    return nn.max_pool(x, (3,) * axes, strides=(stride,) * axes, padding=((1, 1),) * axes)


def _by_comparisons(stride: int, x: Array) -> Array:
    """Along one axis and then the other, out of comparisons, whose gradient is a choice."""
    for axis in (2, 1):
        size = x.shape[axis]
        padding = [(1, 1, 0) if i == axis else (0, 0, 0) for i in range(4)]
        padded = lax.pad(x, jnp.array(-jnp.inf, x.dtype), padding)
        first, second, third = (lax.slice_in_dim(padded, k, k + size, stride, axis) for k in range(3))
        x = _larger(_larger(first, second), third)
    return x


def _larger(a: Array, b: Array) -> Array:
    """The maximum; nan where either is. Where both are equal the gradient is all `a`'s, as the first's in torch."""
    return jnp.where((b > a) | (b != b), b, a)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _by_keys(stride: int, x: Array) -> Array:
    """Of 16-bit numbers. Where it is differentiated, it is the largest of nine keys, a value and its place each. A GPU
    finds it in a kernel or two, and the gradient reads the places, a byte for each window."""
    return _by_windows(stride, x)


@_by_keys.defjvp
def _(stride: int, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    value, place = _value_and_place(stride, *primals)
    nothing = jnp.zeros((), value.dtype)
    chosen = (jnp.where(place == k, dx, nothing) for k, dx in enumerate(_nine(tangents[0], stride, 0)))
    return value, reduce(jnp.add, chosen)


def _value_and_place(stride: int, x: Array) -> tuple[Float[Array, "N H2 W2 C"], Int[Array, "N H2 W2 C"]]:
    """The maximum of each window, nan where there is one, and where it first stands: 0 to 8 in reading order."""
    bits = lax.bitcast_convert_type(x, jnp.int16).astype(jnp.int32)
    order = jnp.where(bits < 0, bits ^ 0x7FFF, bits)  # integers in the order of the numbers
    order = jnp.where(x == 0, 0, order)  # -0 is 0
    order = jnp.where(x != x, 0x7FFF, order)
    best = reduce(jnp.maximum, (key * 16 + 8 - k for k, key in enumerate(_nine(order, stride, -0x8000))))
    order = best >> 4
    bits = jnp.where(order < 0, order ^ 0x7FFF, order)
    return lax.bitcast_convert_type(bits.astype(jnp.int16), x.dtype), (8 - (best & 15)).astype(jnp.int8)


def _nine(x: Array, stride: int, border: float) -> list[Array]:
    """The values of each 3x3 window in reading order, as nine arrays (N, H2, W2, C)."""
    n, h, w, c = x.shape
    padded = lax.pad(x, jnp.array(border, x.dtype), [(0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0)])
    starts = [(0, i, j, 0) for i in range(3) for j in range(3)]
    return [lax.slice(padded, start, (n, start[1] + h, start[2] + w, c), (1, stride, stride, 1)) for start in starts]


@dataclass(frozen=True)
class GridAverage:
    """Means of `grid` x `grid` parts of the maps, as `torch.nn.AdaptiveAvgPool2d(grid)` and then `flatten`: of each
    channel all parts, row by row.
    """

    grid: int

    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N D"]:
        for axis in (1, 2):
            x = jnp.stack([self._part(x, axis, place) for place in range(self.grid)], axis=axis)
        return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)

    def _part(self, x: Array, axis: int, place: int) -> Array:
        start, end = bounds_of(x.shape[axis], self.grid, place)
        return jnp.mean(lax.slice_in_dim(x, start, end, axis=axis), axis=axis)


def bounds_of(side: int, grid: int, place: int) -> tuple[int, int]:
    """Where a part of a side begins, and where it ends: parts overlap where `grid` does not divide the side."""
    return place * side // grid, -(-(place + 1) * side // grid)


def halving_average_pool(x: Float[Array, "N *S C"]) -> Float[Array, "N *S2 C"]:
    """2x2, stride 2; at the end of an odd side the mean is of the pixels that exist (torch's `ceil_mode`)."""
    two = (2,) * (x.ndim - 2)
    ends = [(0, side % 2) for side in x.shape[1:-1]]
    return nn.avg_pool(x, two, strides=two, padding=ends, count_include_pad=False)


def smoothing_average_pool(x: Float[Array, "N *S C"]) -> Float[Array, "N *S C"]:
    """2x2, stride 1, with zeros beyond the last row and column, as timm's D nets pool where they dilate."""
    along, axes = max(x.ndim - 4, 0), min(x.ndim - 2, 2)  # of a clip each frame by itself
    window, ends = (1,) * along + (2,) * axes, ((0, 0),) * along + ((0, 1),) * axes
    return nn.avg_pool(x, window, strides=(1,) * len(window), padding=ends)


def blur_pool(
    x: Float[Array, "N *S C"], stride: int, border: Literal["reflect", "constant"] = "reflect"
) -> Float[Array, "N *S2 C"]:
    """The binomial filter (1, 2, 1) / 4 along each axis, then every `stride`-th pixel; borders are reflected.

    Zhang 2019, arXiv:1904.11486; timm's `BlurPool2d`.

    Args:
      border: `"constant"` = zeros beyond it, as FFCV has it.
    """
    for axis in range(1, x.ndim - 1):
        size = x.shape[axis]
        padded = jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(x.ndim)], mode=border)
        taps = [lax.slice_in_dim(padded, k, k + size, stride, axis) for k in range(3)]
        x = 0.25 * taps[0] + 0.5 * taps[1] + 0.25 * taps[2]
    return x
