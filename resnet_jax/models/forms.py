"""Operations that are fast in another form on each platform. The form is chosen where a program is lowered.

Lowering for a platform that this machine does not have gives that platform's form. All forms of an operation compute the
same numbers, but for rounding; `tests/models/test_forms.py` compares them.
"""

import os
from functools import partial
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

PLATFORMS = ("cpu", "cuda", "tpu")


def per_platform(*arguments: Array, default: Callable[..., Array], **forms: Callable[..., Array]) -> Array:
    """`forms[platform](*arguments)`, or `default` where there is none, of the platform that the program is lowered for.

    The environment variable RESNET_JAX_FORMS (a platform) has that platform's form used on every platform, for tests.
    """
    forced = os.environ.get("RESNET_JAX_FORMS")
    if forced:
        return forms.get(forced, default)(*arguments)
    return lax.platform_dependent(*arguments, default=default, **forms)


def pointwise(x: Float[Array, "*N K"], kernel: Float[Array, "K C"], precision: Any = None) -> Float[Array, "*N C"]:
    """A 1x1 convolution of stride 1.

    On CPUs a product of two matrices: there XLA's `dot` is faster than its `conv`, and of two dimensions it needs no
    transposed copy of the activations for the kernel's gradient. Elsewhere a convolution: of products after a strided
    slice XLA's compiler for GPUs makes a Triton kernel that ends the process (openxla/xla#47381), and cuDNN's
    convolutions take in what follows them.
    """

    def product(x: Array, kernel: Array) -> Array:
        flat = jnp.matmul(x.reshape(-1, x.shape[-1]), kernel, precision=precision)
        return flat.reshape(*x.shape[:-1], kernel.shape[-1])

    def convolution(x: Array, kernel: Array) -> Array:
        four = x.reshape(-1, *x.shape[-3:])
        y = lax.conv_general_dilated(
            four, kernel[None, None], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=precision
        )
        return y.reshape(*x.shape[:-1], kernel.shape[-1])

    return per_platform(x, kernel, cpu=product, default=convolution)


def max_pool(x: Float[Array, "N H W C"], stride: int = 2) -> Float[Array, "N H2 W2 C"]:
    """3x3, padded by -inf as torch's `MaxPool2d(3, stride, 1)`; SAME would pad an even side at one end."""

    def windows(x: Array) -> Array:
        return nn.max_pool(x, (3, 3), strides=(stride, stride), padding=((1, 1), (1, 1)))

    def comparisons(x: Array) -> Array:
        """Along one axis and then the other, out of comparisons, whose gradient is a choice: that of XLA's windowed
        maximum keeps four arrays of indices on a CPU and scatters on a GPU. On a TPU it is ten times as fast as this."""
        for axis in (2, 1):
            first, second, third = _three(x, axis, stride)
            x = _larger(_larger(first, second), third)
        return x

    return per_platform(x, tpu=windows, cuda=partial(_pool_by_place, stride), default=comparisons)


def _three(x: Array, axis: int, stride: int) -> list[Array]:
    """The values of each window of three along `axis`, first to last."""
    size = x.shape[axis]
    padding = [(1, 1, 0) if i == axis else (0, 0, 0) for i in range(4)]
    padded = lax.pad(x, jnp.array(-jnp.inf, x.dtype), padding)
    return [lax.slice_in_dim(padded, k, k + size, stride, axis) for k in range(3)]


def _pool_by_place(stride: int, x: Array) -> Array:
    """Value and place of each window's maximum as one number, which a GPU finds in one kernel; its gradient is a choice
    by the place. Of 16-bit numbers, which leave room for the place."""
    if x.dtype.itemsize != 2:
        return None
    return _largest(stride, x)[0]


def _nine(x: Array, stride: int, fill: float) -> list[Array]:
    """The values of each 3x3 window, in reading order."""
    size = x.shape
    padded = lax.pad(x, jnp.array(fill, x.dtype), [(0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0)])
    return [
        lax.slice(padded, (0, i, j, 0), (size[0], i + size[1], j + size[2], size[3]), (1, stride, stride, 1))
        for i in range(3)
        for j in range(3)
    ]


def _value_and_place(x: Array, stride: int) -> tuple[Array, Array]:
    bits = lax.bitcast_convert_type(x, jnp.int16).astype(jnp.int32)
    order = jnp.where(bits < 0, bits ^ 0x7FFF, bits)
    order = jnp.where(x != x, 0x7FFF, order)
    low = -0x8000
    keys = [key * 16 + (8 - k) for k, key in enumerate(_nine(order, stride, low))]
    best = keys[0]
    for key in keys[1:]:
        best = jnp.maximum(best, key)
    order, place = best >> 4, (8 - (best & 15)).astype(jnp.int8)
    bits = jnp.where(order < 0, order ^ 0x7FFF, order).astype(jnp.int16)
    return lax.bitcast_convert_type(bits, x.dtype), place


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _pool_by_place(stride, x):
    return _value_and_place(x, stride)[0]


@_pool_by_place.defjvp
def _(stride, primals, tangents):
    best, place = _value_and_place(*primals, stride)
    place = lax.optimization_barrier(place)
    parts = [jnp.where(place == k, dx, jnp.zeros((), dx.dtype)) for k, dx in enumerate(_nine(tangents[0], stride, 0))]
    return best, sum(parts[1:], parts[0])


def _larger(a: Array, b: Array) -> Array:
    """The maximum; nan where either is. Where both are equal the gradient is all `a`'s, as the first's in torch."""
    return jnp.where((b > a) | (b != b), b, a)
