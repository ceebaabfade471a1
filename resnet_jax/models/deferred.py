"""The input of a batch normalisation: activations, or a convolution that the normalisation computes itself.

A batch normalisation reads the output of the convolution before it several times: for the statistics, to normalise, and
for the gradients. Training on a GPU or TPU mostly waits for such arrays. If the normalisation gets the convolution
before it is computed, it needs far fewer of them. `norm_of` and `pooled_norm_of` decide whether it gets the
convolution.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from resnet_jax.models.forms import kept, per_platform
from resnet_jax.models.moments import Moments, moments, moments_around, product_moments, scaled_product, widened

Statistic = Float[Array, "G 1 1 1 C"]  # one for each group, or one for all groups, with 1 for G


def norm_of(conv: Any, norm: Any, x: Float[Array, "N *S K"]) -> Float[Array, "N *S2 C"]:
    """`norm(conv(x))`, for a module `layers.Conv` and any norm."""
    return norm(conv(x, deferred=True) if conv.widens(x) and _takes_convolutions(norm, conv, x) else conv(x))


def pooled_norm_of(
    conv: Any, norm: Any, x: Float[Array, "N H W K"], pool: Callable[[Array], Array], act: Callable[[Array], Array]
) -> Float[Array, "N H2 W2 C"]:
    """`pool(act(norm(conv(x))))`, for a `pool` that takes the maximum over windows and an `act` that never falls."""
    if x.ndim == 4 and _takes_convolutions(norm, conv, x):
        return act(norm(conv(x, deferred=True)._replace(pool=pool)))
    # Activation before the pool: for float32 on a CPU this is 4 % faster than after it, with 6 % less memory.
    return pool(act(norm(conv(x))))


def _takes_convolutions(norm: Any, conv: Any, x: Array) -> bool:
    """Whether `norm` is a `norms.BatchNorm` that takes a convolution of this dtype before it is computed."""
    takes = getattr(norm, "takes_convolutions", None)
    return takes is not None and takes(conv.output_dtype(x))


class Convolution(NamedTuple):
    """A convolution that has not been computed.

    Attributes:
      x: the input, in the dtype of the computation.
      kernel: the kernel, in the dtype of the parameters.
      convolve: `(x, kernel) -> (N, H, W, C)`.
      stride: stride of `convolve`.
      pool: applied to the normalised output; None = no pool, and then the kernel is 1x1.
    """

    x: Float[Array, "N H W K"]
    kernel: Float[Array, "S S K C"]
    convolve: Callable[[Array, Array], Array]
    stride: int
    pool: Callable[[Array], Array] | None = None

    @property
    def channels(self) -> int:
        return self.kernel.shape[-1]

    def settle(self, scale: Float[Array, " C"]) -> "Product | Pooled":
        """Chooses the way in which the convolution is computed before a normalisation with this scale."""
        if self.pool is None:
            seen = kept(self.x[:, :: self.stride, :: self.stride]) if self.stride > 1 else self.x
            return Product(seen, self.kernel[0, 0])
        # Scaling by a negative number turns a maximum into a minimum. So such filters change their sign beforehand.
        sign = jnp.where(scale < 0, -1, 1).astype(self.kernel.dtype).reshape(1, 1, 1, -1)
        return Pooled(self.convolve(self.x, self.kernel * sign), sign[None], self.pool)


class Activations:
    """Activations that a norm normalises. `dtype` is the dtype of the result."""

    def __init__(self, x: Float[Array, "N H W C"], dtype: Any) -> None:
        self.dtype = dtype
        self.x = x
        self.wide = widened(x)  # widened once, so that the gradients of both uses are added before they are rounded

    def moments(self, size: int, near: Statistic, *, one_pass: bool | None) -> Moments:
        """Mean and biased variance of each group of `size` images.

        Args:
          near: as in `moments.moments_around`.
          one_pass: None = only for numbers of 16 bits, and not on CPUs, which gain nothing by it.
        """
        grouped = in_groups(self.wide, size)
        if one_pass is None and self.x.dtype.itemsize == 2:
            return per_platform(grouped, near, cpu=_moments_of_first, default=moments_around)
        return moments_around(grouped, near) if one_pass else moments(grouped)

    def scaled(self, size: int | None, factor: Statistic, shift: Statistic) -> Float[Array, "N H W C"]:
        """`x * factor + shift` of each group, one multiply-add per value. Only `x` is kept for the backward pass.

        Args:
          size: images in a group; None = no groups, and then `factor` and `shift` have as many dimensions as `x`.
        """
        return (in_groups(self.wide, size) * factor + shift).reshape(self.x.shape).astype(self.dtype)


@dataclass(frozen=True)
class Product:
    """A 1x1 convolution y = x W with at least twice as many outputs as inputs.

    The moments of y follow from the second moments of `x`, which are few numbers. So the scale is known before y is
    computed, and the convolution writes y normalised: the unnormalised y is never written. The backward pass does not
    need it either. The gradient of the scale is found in x'g, from which the gradient of the kernel is made anyway. The
    variance adds to the gradient of `x` a product of `x` with a matrix of K x K.
    """

    x: Float[Array, "N H W K"]
    kernel: Float[Array, "K C"]

    def moments(self, size: int, near: Statistic, *, one_pass: bool | None) -> Moments:
        """As `Activations.moments`. It always takes one pass."""
        return product_moments(in_groups(self.x, size), self.kernel)

    def scaled(self, size: int | None, factor: Statistic, shift: Statistic) -> Float[Array, "N H W C"]:
        """As `Activations.scaled`."""
        y = scaled_product(in_groups(self.x, size), self.kernel, factor, shift)
        return y.reshape(*self.x.shape[:-1], -1)


@dataclass(frozen=True)
class Pooled:
    """The output of a convolution, times `sign` of each channel, which is pooled before it is normalised.

    The maximum of `x * factor + shift` over a window is the maximum of `x`, scaled and shifted. So only a quarter of
    the values need be normalised, and the normalised values need not be written before the pool.
    """

    x: Float[Array, "N H W C"]
    sign: Float[Array, "1 1 1 1 C"]
    pool: Callable[[Array], Array]

    def moments(self, size: int, near: Statistic, *, one_pass: bool | None) -> Moments:
        """As `Activations.moments`, for the output without its sign."""
        mean, var = Activations(self.x, self.x.dtype).moments(size, near * self.sign, one_pass=one_pass)
        return mean * self.sign, var

    def scaled(self, size: int | None, factor: Statistic, shift: Statistic) -> Float[Array, "N H2 W2 C"]:
        """`pool(x * factor + shift)`."""
        return Activations(self.pool(self.x), self.x.dtype).scaled(size, factor * self.sign, shift)


def _moments_of_first(x: Array, near: Array) -> Moments:
    return moments(x)


def in_groups(x: Array, size: int | None) -> Float[Array, "G n H W C"]:
    """`x` with consecutive images in groups of `size`; None = `x` itself, without groups."""
    return x if size is None else x.reshape(-1, size, *x.shape[1:])
