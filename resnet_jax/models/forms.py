"""Operations that have another fast form on each platform. The form is chosen where a program is lowered.

So lowering for a platform that this machine does not have gives the form of that platform. All forms of an operation
compute the same numbers, except for rounding (`tests/models/test_forms.py`). docs/performance.md says why each was
chosen.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

PLATFORMS = ("cpu", "cuda", "tpu")

# The platform whose forms are used on every platform. Tests set it, so that a CPU computes with the forms of a TPU.
_forced: ContextVar[str | None] = ContextVar("forms", default=os.environ.get("RESNET_JAX_FORMS"))  # noqa: B039 (a string)


@contextmanager
def forms_of(platform: str) -> Iterator[None]:
    """Everything that is traced inside has the forms of `platform` ("cpu", "cuda", "tpu"), on any platform.

    A function that `jax.jit` has traced before keeps its forms.
    """
    token = _forced.set(platform)
    try:
        yield
    finally:
        _forced.reset(token)


@contextmanager
def forms_of_this_machine() -> Iterator[None]:
    """Inside, only one form of each operation is traced, if this machine computes on CPUs: theirs.

    To trace the forms of all platforms takes 0.3 s more for ResNet-50's training step, and 0.8 s in bfloat16. That is a
    part of the time to compile on a CPU, and little of the minute on an accelerator. Lower for no other platform inside
    it.
    """
    if jax.default_backend() != "cpu" or _forced.get():
        yield
        return
    with forms_of("cpu"):
        yield


def per_platform(*arguments: Array, default: Callable[..., Any], **forms: Callable[..., Any]) -> Any:
    """`forms[platform](*arguments)` for the platform that the program is lowered for, or `default` without such a form.

    JAX traces and differentiates all forms, and remembers the results for the same functions and shapes. So a form that
    a network has in many layers should be a function that exists once, not one that is made for each call.

    Args:
      forms: by JAX's name of the platform: `cpu`, `cuda`, `tpu`. All must give arrays of the same shapes and dtypes.
    """
    forced = _forced.get()
    if forced:
        return forms.get(forced, default)(*arguments)
    return lax.platform_dependent(*arguments, default=default, **forms)


def pointwise(
    x: Float[Array, "*N H W K"], kernel: Float[Array, "K C"], precision: Any = None, stride: int = 1
) -> Float[Array, "*N H2 W2 C"]:
    """A 1x1 convolution.

    On CPUs it is a product of two matrices: XLA's `dot` is faster there than its `conv`, and with two dimensions it
    needs no transposed copy of the activations for the kernel's gradient. Elsewhere it is a convolution, which moves
    less memory. From a product behind a strided slice, XLA for GPUs makes a Triton kernel that ends the process
    (openxla/xla#47381).
    """
    product, convolution = _pointwise_forms(precision, stride)
    return per_platform(x, kernel, cpu=product, default=convolution)


@cache
def _pointwise_forms(precision: Any, stride: int) -> tuple[Callable[..., Array], Callable[..., Array]]:
    """The product and the convolution. They are the same functions at each call: see `per_platform`."""

    def product(x: Array, kernel: Array) -> Array:
        x = x[..., ::stride, ::stride, :]
        flat = jnp.matmul(x.reshape(-1, x.shape[-1]), kernel, precision=precision)
        return flat.reshape(*x.shape[:-1], kernel.shape[-1])

    def convolution(x: Array, kernel: Array) -> Array:
        y = lax.conv_general_dilated(
            x if x.ndim == 4 else x.reshape(-1, *x.shape[-3:]),
            kernel[None, None],
            window_strides=(stride, stride),
            padding="VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=precision,
        )
        return y if x.ndim == 4 else y.reshape(*x.shape[:-3], *y.shape[-3:])

    return product, convolution


Products = Callable[[Array, Array, Sequence[int], Sequence[int]], dict[tuple[int, int], Array]]


def dilated(x: Float[Array, "N H W K"], kernel: Float[Array, "3 3 K C"], dilation: int, precision: Any = None) -> Array:
    """A 3x3 convolution of stride 1 with a large dilation, padded so that the map keeps its size.

    A tap far from the middle often sees padding: with dilation 36, on a map of 65 x 65 pixels, 3.6 of the 9 taps see
    the map on average. On CPUs only what is not padding is multiplied. XLA's convolution multiplies the zeros, too.
    """
    products, convolution = _dilated_forms(dilation, precision)
    return per_platform(x, kernel, cpu=products, default=convolution)


@cache
def _dilated_forms(dilation: int, precision: Any) -> tuple[Callable[..., Array], Callable[..., Array]]:
    """The sum of shifted products and the convolution."""

    def times(x: Array, kernel: Array) -> Array:
        wide = jnp.promote_types(x.dtype, jnp.float32)  # sums of 16-bit products are rounded once, at the end
        return jnp.matmul(x, kernel, precision=precision, preferred_element_type=wide)

    def tap_by_tap(x: Array, kernel: Array, above: Sequence[int], left: Sequence[int]) -> dict[tuple[int, int], Array]:
        return {(i, j): times(x, kernel[i, j]) for i in above for j in left}

    def at_once(x: Array, kernel: Array, above: Sequence[int], left: Sequence[int]) -> dict[tuple[int, int], Array]:
        seen = kernel.transpose(2, 0, 1, 3)[:, above[0] : above[-1] + 1, left[0] : left[-1] + 1]
        y = times(x, seen.reshape(seen.shape[0], -1)).reshape(*x.shape[:-1], *seen.shape[1:])
        return {(i, j): y[..., a, b, :] for a, i in enumerate(above) for b, j in enumerate(left)}

    @jax.custom_jvp
    def products(x: Array, kernel: Array) -> Array:
        return _shifted_sum(tap_by_tap, x, kernel, dilation)

    # One by one the products need no copy of the kernel. All taps at once are faster in the gradients, where they make
    # one product with many terms.
    @products.defjvp
    def products_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
        (x, kernel), (dx, dkernel) = primals, tangents
        moved = _shifted_sum(at_once, dx, kernel, dilation) + _shifted_sum(at_once, x, dkernel, dilation)
        return products(x, kernel), moved

    def convolution(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(1, 1),
            padding=[(dilation, dilation)] * 2,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=precision,
        )

    return products, convolution


def _shifted_sum(products: Products, x: Array, kernel: Array, dilation: int) -> Array:
    """The convolution, from the products of each part of the map with the taps that see all of this part."""
    height, width, channels = x.shape[1:]
    rows: dict[tuple[int, int], list[Array]] = {}
    for top, bottom, above in _bands(height, dilation):
        columns: dict[tuple[int, int], list[Array]] = {}
        for start, stop, left in _bands(width, dilation):
            part = x[:, top:bottom, start:stop]
            found = products(part.reshape(-1, channels), kernel, above, left)
            for tap, y in found.items():
                columns.setdefault(tap, []).append(y.reshape(*part.shape[:-1], -1))
        for tap, parts in columns.items():
            rows.setdefault(tap, []).append(jnp.concatenate(parts, axis=2))
    moved = []
    for tap, parts in rows.items():
        to = [(max(shift, 0), max(-shift, 0)) for shift in ((1 - place) * dilation for place in tap)]
        moved.append(jnp.pad(jnp.concatenate(parts, axis=1), ((0, 0), *to, (0, 0))))
    return sum(moved[1:], moved[0]).astype(x.dtype)


def _bands(side: int, dilation: int) -> list[tuple[int, int, list[int]]]:
    """Cuts an axis where a tap begins or ends to see it: first pixel, end, and which of the three taps see the band."""
    cuts = sorted({0, side, *(cut for cut in (dilation, side - dilation) if 0 < cut < side)})
    inside = lambda start, stop, tap: start + (1 - tap) * dilation >= 0 and stop + (1 - tap) * dilation <= side
    return [(a, b, [tap for tap in range(3) if inside(a, b, tap)]) for a, b in pairwise(cuts)]


def in_halves(
    x: Float[Array, "N K"], kernel: Float[Array, "K C"], dimensions: Any, precision: Any = None, **options: Any
) -> Float[Array, "N C"]:
    """`lax.dot_general` for the last layer, as flax calls it. On a TPU it takes the kernel's columns in two halves.

    The TPU's compiler takes a float32 kernel that is an argument of the program into its fast memory early. Then it has
    no room there for activations: the forward pass of ResNet-152 moves 6.5 GB with one product, 5.6 with two.
    """

    def whole(x: Array, kernel: Array) -> Array:
        return lax.dot_general(x, kernel, dimensions, precision=precision, **options)

    def halves(x: Array, kernel: Array) -> Array:
        middle = kernel.shape[1] // 2
        return jnp.concatenate([whole(x, kernel[:, :middle]), whole(x, kernel[:, middle:])], axis=-1)

    return per_platform(x, kernel, tpu=halves, default=whole)


def same(x: Array) -> Array:
    return x


@jax.custom_jvp
def kept(x: Array) -> Array:
    """`x` itself. On a TPU it is written to memory once: the compiler may otherwise compute `x` again in each kernel
    that reads it, from arrays that are larger, or write it twice. On a GPU there is no barrier, since its compiler
    fuses less behind one.
    """
    return per_platform(x, tpu=lax.optimization_barrier, default=same)


@kept.defjvp
def _kept_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return kept(*primals), tangents[0]


@jax.custom_jvp
def summed_once(x: Array) -> Array:
    """`x` itself, the sum that a residual block puts out. On a CPU each block then reads the sum before it.

    XLA for CPUs otherwise computes the sum anew in each kernel that needs it, from all branches of the stage before:
    the work of a stage grows with the square of its blocks. It computes nothing twice that is expensive, and a division
    counts as expensive. The divisor is 1, or nan where `x` is; written so, XLA does not see that it is a constant.
    """
    return per_platform(x, cpu=_divided_by_one, default=same)


@summed_once.defjvp
def _summed_once_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return summed_once(*primals), tangents[0]


def _divided_by_one(x: Array) -> Array:
    return x / jnp.maximum(jnp.minimum(x, 1), 1)
