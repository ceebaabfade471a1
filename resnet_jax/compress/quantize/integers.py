"""Layers of integers: int8 times int8, added up in int32.

XLA has products of int8 matrices everywhere. It has convolutions of int8 for TPUs, and none for GPUs (jax-ml/jax#7637).
For CPUs it has them too, but there a network takes ten times as long with them. So on CPUs and GPUs a convolution
multiplies the same integers in float32. All forms give the same sums.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Int, Int8, Int32, UInt8

from resnet_jax.compress.quantize.scales import largest_activation, largest_weight, of_channels
from resnet_jax.models.forms import per_platform

HALF = 128  # between the integer of an activation and the same as an int8
EXACT = 2**24  # float32 has all integers up to here

Window = tuple[tuple[str, Any], ...]
"""How a kernel moves, as items of the arguments of `lax.conv_general_dilated`."""


def products(
    module: Any,
    x: UInt8[Array, "N *S K"],
    zero_point: Int[Array, ""],
    kernel: Int8[Array, "*W I O"],
    bits: tuple[int, int],
) -> Int32[Array, "N *S2 O"]:
    """What a layer computes of integers, without its bias: the sums of `(x - zero_point) * kernel`.

    Args:
      module: a `Conv`, which says how the kernel moves, or a `Dense`.
      bits: of activations and of weights. They say how large a sum can become.
    """
    if isinstance(module, nn.Dense):
        return _matrix_product(x, zero_point, kernel)
    window = module.window(x)
    if set(kernel.shape[:-2]) == {1} and window["feature_group_count"] == 1:
        seen = x[:, *(slice(None, None, stride) for stride in window["window_strides"])]
        return _matrix_product(seen, zero_point, kernel.reshape(kernel.shape[-2:]))
    in_integers, in_float = _forms(tuple((name, _hashable(value)) for name, value in window.items()), bits)
    return per_platform(x, zero_point, kernel, tpu=in_integers, default=in_float)


def _matrix_product(x: Array, zero_point: Array, kernel: Array) -> Array:
    low, zero = _signed(x, zero_point)
    dimensions = (((x.ndim - 1,), (0,)), ((), ()))
    total = lax.dot_general(low, kernel, dimensions, preferred_element_type=jnp.int32)
    return total - of_channels(zero * jnp.sum(kernel, axis=0, dtype=jnp.int32), total)


@cache
def _forms(window: Window, bits: tuple[int, int]) -> tuple[Callable[..., Array], Callable[..., Array]]:
    """The convolution in integers, and in float32. They are the same functions at each call: see `per_platform`."""
    options = dict(window)
    groups = options["feature_group_count"]

    def in_integers(x: Array, zero_point: Array, kernel: Array) -> Array:
        low, zero = _signed(x, zero_point)
        # The border is what stands for 0. So the zero point is taken off each sum as often as off every other.
        border = [(0, 0, 0), *((before, after, 0) for before, after in options["padding"]), (0, 0, 0)]
        padded = lax.pad(low, zero.astype(jnp.int8), border)
        unpadded = {**options, "padding": "VALID"}
        total = lax.conv_general_dilated(padded, kernel, **unpadded, preferred_element_type=jnp.int32)
        return total - zero * jnp.sum(kernel, axis=tuple(range(kernel.ndim - 1)), keepdims=True, dtype=jnp.int32)

    def in_float(x: Array, zero_point: Array, kernel: Array) -> Array:
        """Channels are taken as many at a time as keep all sums below `EXACT`. Then float32 rounds none of them."""
        *taps, inputs, _ = kernel.shape
        largest = largest_activation(bits[0]) * largest_weight(bits[1]) * math.prod(taps)
        at_once = max(1, EXACT // largest)
        shifted = (x.astype(jnp.int32) - zero_point).astype(jnp.float32)
        of_groups = shifted.reshape(*x.shape[:-1], groups, inputs)
        parts = []
        for start in range(0, inputs, at_once):
            some = of_groups[..., start : start + at_once].reshape(*x.shape[:-1], -1)
            part = kernel[..., start : start + at_once, :].astype(jnp.float32)
            y = lax.conv_general_dilated(some, part, **options, precision="highest")
            # A GPU may convolve through transforms that leave a sum a little beside its integer.
            parts.append(jnp.round(y).astype(jnp.int32))
        return sum(parts[1:], parts[0])

    return in_integers, in_float


def _signed(x: Array, zero_point: Array) -> tuple[Array, Array]:
    """The integers and their zero point, both less 128, so that they are int8 as kernels are."""
    return (x.astype(jnp.int32) - HALF).astype(jnp.int8), zero_point - HALF


def _hashable(value: Any) -> Any:
    return tuple(map(tuple, value)) if isinstance(value, list) else value
