"""Convolutions with fewer products: Winograd's F(2, 3) (Lavin and Gray 2016, arXiv:1509.09308), along one axis.

Two neighbours of the result need four products with sums of the input, instead of six. The second axis of a 3x3 kernel
is left to XLA's convolution, since sums along both axes cost as much on CPUs as they save.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from resnet_jax.models.convolution import convolve, is_looping
from resnet_jax.models.forms import per_platform

MANY_PIXELS, MANY_CHANNELS = 4096, 128
"""Of a batch, and of both sides of a kernel. With fewer, the sums cost more than the products that they save. XLA adds
the kernels of many layers early and keeps them, so deep networks would need much more memory for little time."""


def in_pairs(
    x: Float[Array, "N L *S K"],
    kernel: Float[Array, "3 *T K2 D"],
    around: tuple[int, int],
    product: Callable[[Array, Array], Array],
) -> Float[Array, "N L2 *S2 D"]:
    """A convolution of stride 1, along the second axis in pairs.

    Args:
      around: zeros before and after the second axis.
      product: convolves the other axes: `(N, P, *S, K)` and `(*T, K2, D)` -> `(N, P, *S2, D)`.
    """
    first, middle, last = kernel
    count = x.shape[1] + sum(around) - 2
    x = jnp.pad(x, [(0, 0), (around[0], around[1] + count % 2), *[(0, 0)] * (x.ndim - 2)])
    even, odd = x[:, ::2], x[:, 1::2]
    one, two, three, four = even[:, :-1], odd[:, :-1], even[:, 1:], odd[:, 1:]  # what a pair sees
    outer = first + last
    a = product(one - three, first)
    b = product(two + three, (outer + middle) / 2)
    c = product(three - two, (outer - middle) / 2)
    d = product(two - four, last)
    pairs = jnp.stack([a + b + c, b - c - d], axis=2)
    return pairs.reshape(len(x), -1, *pairs.shape[3:])[:, :count]


def has_many_pixels(x: Float[Array, "*N C"], least: int) -> bool:
    """Whether a batch has at least this number of pixels; False where its size is open, in a program for any size."""
    sides = x.shape[:-1]
    return all(isinstance(side, int) for side in sides) and math.prod(sides) >= least


def plane(
    x: Float[Array, "N H W K"], kernel: Float[Array, "A B K2 D"], window: dict[str, Any], precision: Any = None
) -> Float[Array, "N H2 W2 D"]:
    """A convolution of images.

    Args:
      window: how the kernel moves, as `lax.conv_general_dilated` is told.
    """
    moves = window["window_strides"], tuple(window["padding"]), window["rhs_dilation"]
    groups = window["feature_group_count"]
    if kernel.shape[:2] == (3, 3) and moves == ((1, 1), ((1, 1), (1, 1)), (1, 1)) and groups == 1:
        return three_by_three(x, kernel, precision)
    return convolve(x, kernel, *moves, groups, precision)


def three_by_three(
    x: Float[Array, "N H W K"], kernel: Float[Array, "3 3 K D"], precision: Any = None
) -> Float[Array, "N H W D"]:
    """A plain 3x3 convolution of stride 1, padded by 1.

    On CPUs the rows are computed in pairs, where that is faster: with many pixels and channels, and not in training,
    since the gradients gain nothing by it. Sums of 16-bit products would be rounded too often.
    """
    pairs, convolution = _forms(precision)
    many = has_many_pixels(x, MANY_PIXELS) and min(kernel.shape[2:]) >= MANY_CHANNELS
    if is_looping() or not many or x.dtype.itemsize <= 2:
        return convolution(x, kernel)
    return per_platform(x, kernel, cpu=pairs, default=convolution)


@cache
def _forms(precision: Any) -> tuple[Callable[..., Array], Callable[..., Array]]:
    """Rows in pairs, and the convolution. They are the same functions at each call: see `per_platform`."""

    def convolution(x: Array, kernel: Array, above: tuple[int, int] = (1, 1)) -> Array:
        return convolve(x, kernel, (1, 1), (above, (1, 1)), (1, 1), precision=precision)

    @jax.custom_jvp
    def pairs(x: Array, kernel: Array) -> Array:
        return in_pairs(x, kernel, (1, 1), lambda rows, own: convolution(rows, own[None], (0, 0)))

    @pairs.defjvp
    def pairs_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
        return jax.jvp(convolution, primals, tangents)

    return pairs, convolution
