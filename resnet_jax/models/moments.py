"""Means and variances of activations, and scaled 1x1 convolutions: the arithmetic of batch normalisation.

All functions take arrays in groups of consecutive images, (G, n, H, W, C). Means and variances also take any other
number of axes in place of H and W. Where the automatic derivatives would keep an array as large as the activations, the
derivatives are written by hand. Derivatives of all orders and of both modes are right.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from resnet_jax.models.forms import per_platform, pointwise

Moments = tuple[Float[Array, "G 1 *S1 C"], Float[Array, "G 1 *S1 C"]]  # with as many axes as the activations


def widened(x: Array) -> Array:
    """`x` in float32, or in float64 if it is float64."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@jax.custom_jvp
def moments(x: Float[Array, "G n *S C"]) -> Moments:
    """Mean and biased variance of each channel of each group, in two passes: the variance is computed around the mean.

    The automatic derivative of the variance would keep the deviations from the mean for the backward pass.
    """
    mean = jnp.mean(x, axis=_inner(x), keepdims=True)
    # `mean - x`, where `_moments_jvp` has `x - mean`: the compiler must not see one value that it could keep for both.
    return mean, jnp.mean(jnp.square(mean - x), axis=_inner(x), keepdims=True)


@jax.custom_jvp
def moments_around(x: Float[Array, "G n *S C"], near: Float[Array, "1 1 *S1 C"]) -> Moments:
    """As `moments`, in one pass: sums of `x - near` and of its square. A compiler adds them up where it makes `x`.

    The variance loses as many digits as the square of `mean - near` has more than the variance. Activations of 16 bits
    do not have these digits: a bfloat16 whose mean is 100 standard deviations from 0 is rounded to a third of a
    deviation.

    Args:
      near: numbers near the means. They change the result only by rounding, so no gradient flows to them.
    """
    apart = x - near
    mean = jnp.mean(apart, axis=_inner(x), keepdims=True)
    var = jnp.mean(jnp.square(apart), axis=_inner(x), keepdims=True) - jnp.square(mean)
    return mean + near, jnp.maximum(var, 0)


def _moments_jvp(x: Array, dx: Array, mean: Array) -> Moments:
    d_mean = jnp.mean(dx, axis=_inner(x), keepdims=True)
    # The tangent of the mean does not count: it would be multiplied with deviations that add up to zero.
    # The barrier: on CPUs XLA would otherwise share the mean with `moments`, and repeat it in an array as large as `x`.
    apart = lax.optimization_barrier(mean)
    d_var = 2 * jnp.mean((x - apart) * dx, axis=_inner(x), keepdims=True)
    return d_mean, d_var


def _inner(x: Array) -> tuple[int, ...]:
    """The axes over which statistics of a group are taken: all but the axes of groups and of channels."""
    return tuple(range(1, x.ndim - 1))


@moments.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Moments, Moments]:
    out = moments(*primals)
    return out, _moments_jvp(*primals, *tangents, out[0])


@moments_around.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Moments, Moments]:
    out = moments_around(*primals)
    return out, _moments_jvp(primals[0], tangents[0], out[0])


def product_moments(x: Float[Array, "G n H W K"], kernel: Float[Array, "K C"]) -> Moments:
    """`moments` of the 1x1 convolution `x W` without computing it: mean(x) W, and the diagonal of W' cov(x) W.

    For 16-bit numbers the products in cov(x) are exact. Their sums lose as many digits as the square of mean(x) has
    more than the variance of `x`. Behind an activation these are few.
    """
    mean_x, square = per_platform(x, cuda=_first_two_moments_of_ones, default=_first_two_moments)
    covariance = square - mean_x[:, :, None] * mean_x[:, None, :]
    kernel = widened(kernel)
    mean = jnp.matmul(mean_x, kernel, precision="highest")
    var = jnp.sum(kernel[None] * jnp.matmul(covariance, kernel, precision="highest"), axis=1)
    return mean[:, None, None, None, :], jnp.maximum(var, 0)[:, None, None, None, :]


@jax.custom_jvp
def _first_two_moments(x: Float[Array, "G n H W K"]) -> tuple[Float[Array, "G K"], Float[Array, "G K K"]]:
    """The means of `x` and of x x'."""
    return jnp.mean(widened(x), axis=(1, 2, 3)), _sums(x, x, widened(x).dtype) / _count(x)


@_first_two_moments.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Any, Any]:
    (x,), (dx,) = primals, tangents
    # In the dtype of `x`, so that the transposed product, which is as large as `x`, also has 16-bit numbers.
    half = widened(_sums(x, dx, x.dtype)) / _count(x)
    return _first_two_moments(x), (jnp.mean(widened(dx), axis=(1, 2, 3)), half + jnp.swapaxes(half, 1, 2))


@jax.custom_jvp
def _first_two_moments_of_ones(x: Float[Array, "G n H W K"]) -> tuple[Float[Array, "G K"], Float[Array, "G K K"]]:
    """As `_first_two_moments`, from one product."""
    channels, ones = x.shape[-1], with_ones(x)
    total = _sums(ones, ones, widened(x).dtype) / _count(x)
    return total[:, channels, :channels], total[:, :channels, :channels]


@_first_two_moments_of_ones.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Any, Any]:
    (x,), (dx,) = primals, tangents
    total = widened(_sums(with_ones(x), dx, x.dtype)) / _count(x)
    mean, half = total[:, x.shape[-1]], total[:, : x.shape[-1]]
    return _first_two_moments_of_ones(x), (mean, half + jnp.swapaxes(half, 1, 2))


def _sums(x: Array, y: Array, dtype: Any) -> Float[Array, "G K L"]:
    return jnp.einsum("gnhwk,gnhwl->gkl", x, y, preferred_element_type=dtype, precision=_precision(x))


def _count(x: Array) -> int:
    """How many values a channel has in a group."""
    return x[0].size // x.shape[-1]


ONES = 16  # channels: a product of 16-bit numbers on a GPU takes 16 at a time


def with_ones(x: Float[Array, "*N K"]) -> Float[Array, "*N K2"]:
    """`x` with further channels that are 1. A product with it then also holds a shift, or a sum over `x`.

    XLA for GPUs fuses an array that is added element by element into a matrix product, but not a vector of channels.
    """
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, ONES)], constant_values=1)


def scaled_product(
    x: Float[Array, "G n H W K"],
    kernel: Float[Array, "K C"],
    factor: Float[Array, "G 1 1 1 C"],
    shift: Float[Array, "G 1 1 1 C"],
) -> Float[Array, "G n H W C"]:
    """The 1x1 convolution `x W * factor + shift`. It keeps no array of its output's size for the backward pass.

    A factor scales the kernel, so each group has a kernel of its own. The gradient x'g of that kernel holds both the
    gradient of W and that of the factor.
    """
    return per_platform(x, kernel, factor, shift, cuda=_scaled_before, default=_scaled_afterwards)


@jax.custom_jvp
def _scaled_before(x: Array, kernel: Array, factor: Array, shift: Array) -> Array:
    """A kernel for each group. Two further rows hold the shift: one its first digits, one the rest."""
    own = kernel[None] * factor[:, 0, 0, 0, None, :]
    high = shift[:, 0, 0]
    if x.dtype.itemsize == 2:  # the second row then holds the digits that 16 bits cannot
        info = jnp.finfo(x.dtype)
        high = lax.reduce_precision(high, info.nexp, info.nmant)
    return _each_own(with_ones(x), _rows(own, high, shift[:, 0, 0] - high).astype(x.dtype))


@_scaled_before.defjvp
def _(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    x, kernel, factor, _ = primals
    dx, d_kernel, d_factor, d_shift = tangents
    own = kernel[None] * factor[:, 0, 0, 0, None, :]
    d_own = d_kernel[None] * factor[:, 0, 0, 0, None, :] + kernel[None] * d_factor[:, 0, 0, 0, None, :]
    rows = _rows(d_own, d_shift[:, 0, 0]).astype(x.dtype)
    return _scaled_before(*primals), _each_own(dx, own.astype(x.dtype)) + _each_own(with_ones(x), rows)


def _rows(own: Float[Array, "G K C"], *more: Float[Array, "G 1 C"]) -> Float[Array, "G K2 C"]:
    """`own` with further rows, for the channels that `with_ones` adds."""
    rest = jnp.zeros((len(own), ONES - len(more), own.shape[-1]), own.dtype)
    return jnp.concatenate([own, *more, rest], axis=1)


def _each_own(x: Float[Array, "G n H W K"], own: Float[Array, "G K C"]) -> Float[Array, "G n H W C"]:
    return jnp.einsum("gnhwk,gkc->gnhwc", x, own, precision=_precision(x))


@jax.custom_jvp
def _scaled_afterwards(x: Array, kernel: Array, factor: Array, shift: Array) -> Array:
    """One product for all groups. TPUs lay out 64 channels with the images innermost, where groups cannot be told apart
    without a copy of the output."""
    y = pointwise(x, kernel.astype(x.dtype), _precision(x))
    return (widened(y) * factor + shift).astype(x.dtype)


@_scaled_afterwards.defjvp
def _(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    x, kernel, factor, _ = primals
    dx, d_kernel, d_factor, d_shift = tangents
    from_x = widened(pointwise(dx, kernel.astype(x.dtype), _precision(x))) * factor
    d_own = d_kernel[None] * factor[:, 0, 0, 0, None, :] + kernel[None] * d_factor[:, 0, 0, 0, None, :]
    from_kernels = _each_own(x, d_own.astype(x.dtype))
    return _scaled_afterwards(*primals), (from_x + widened(from_kernels) + d_shift).astype(x.dtype)


def _precision(x: Array) -> Any:
    """Products of 16-bit numbers are exact in float32. Products of float32 numbers are exact only on request."""
    return "highest" if x.dtype == jnp.float32 else None
