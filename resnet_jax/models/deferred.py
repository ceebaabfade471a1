"""What a batch normalisation normalises: activations, or a convolution that it computes itself.

A batch normalisation reads what the convolution before it has written: for the statistics, to normalise, and for the
gradients. Training on a GPU or TPU mostly waits for such arrays. A normalisation that is given the convolution before
it is computed can do without many of them. `norm_of` and `pooled_norm_of` decide whether it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from resnet_jax.models.forms import kept, per_platform
from resnet_jax.models.moments import Moments, moments, moments_around, product_moments, scaled_product, widened

Statistic = Float[Array, "G 1 1 1 C"]  # or that of all groups, with 1 for G


def norm_of(conv: Any, norm: Any, x: Float[Array, "N *S K"]) -> Float[Array, "N *S2 C"]:
    """`norm(conv(x))`, of modules `layers.Conv` and any norm."""
    return norm(conv(x, deferred=True) if conv.widens(x) and _takes_convolutions(norm, conv, x) else conv(x))


def pooled_norm_of(
    conv: Any, norm: Any, x: Float[Array, "N H W K"], pool: Callable[[Array], Array], act: Callable[[Array], Array]
) -> Float[Array, "N H2 W2 C"]:
    """`pool(act(norm(conv(x))))`, of a `pool` that takes the maximum over windows and an `act` that never falls."""
    if x.ndim == 4 and _takes_convolutions(norm, conv, x):
        return act(norm(conv(x, deferred=True)._replace(pool=pool)))
    return pool(act(norm(conv(x))))  # of float32 on a CPU 4 % faster than to activate last, with 6 % less memory


def _takes_convolutions(norm: Any, conv: Any, x: Array) -> bool:
    """Whether `norm` is a `norms.BatchNorm` that uses statistics of numbers so short."""
    takes = getattr(norm, "takes_convolutions", None)
    return takes is not None and takes(conv.output_dtype(x))


class Convolution(NamedTuple):
    """A convolution that has not been computed.

    Attributes:
      x: the input, in the dtype that it is computed in.
      kernel: in the dtype of the parameters.
      convolve: `(x, kernel) -> (N, H, W, C)`.
      stride: of `convolve`.
      pool: what is done with the normalised output; None = nothing, and the kernel is 1x1.
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
        """How it is computed before a normalisation with this scale."""
        if self.pool is None:
            seen = kept(self.x[:, :: self.stride, :: self.stride]) if self.stride > 1 else self.x
            return Product(seen, self.kernel[0, 0])
        # A maximum of what is scaled by a negative number is a minimum: such filters are turned round beforehand.
        sign = jnp.where(scale < 0, -1, 1).astype(self.kernel.dtype).reshape(1, 1, 1, -1)
        return Pooled(self.convolve(self.x, self.kernel * sign), sign[None], self.pool)


class Activations:
    """An array; `dtype` is that of the result."""

    def __init__(self, x: Float[Array, "N H W C"], dtype: Any) -> None:
        self.dtype = dtype
        self.x = x
        self.wide = widened(x)  # once, so that gradients of both uses are added up before they are rounded

    def moments(self, size: int, near: Statistic, *, one_pass: bool | None) -> Moments:
        """Mean and biased variance of each group of `size` images.

        Args:
          near: as of `moments.moments_around`.
          one_pass: None = of numbers of 16 bits, but on CPUs, which gain nothing by it.
        """
        grouped = in_groups(self.wide, size)
        if one_pass is None and self.x.dtype.itemsize == 2:
            return per_platform(grouped, near, cpu=lambda x, near: moments(x), default=moments_around)
        return moments_around(grouped, near) if one_pass else moments(grouped)

    def scaled(self, size: int | None, factor: Statistic, shift: Statistic) -> Float[Array, "N H W C"]:
        """`x * factor + shift` of each group, one multiply-add per value: `x` alone is kept for the backward pass.

        Args:
          size: of the groups; None = without groups, `factor` and `shift` having as many dimensions as `x`.
        """
        return (in_groups(self.wide, size) * factor + shift).reshape(self.x.shape).astype(self.dtype)


@dataclass(frozen=True)
class Product:
    """A 1x1 convolution y = x W with at least twice as many outputs as inputs.

    Its moments are functions of the second moments of `x`, which are few numbers. So the scale is known before y is
    computed, and y leaves the convolution normalised: the unnormalised y is never written. The backward pass does not
    need it either. The gradient of the scale is found in x'g, from which the gradient of the kernel is made anyway.
    What the variance adds to the gradient of `x` is a product of `x` with a matrix of K x K.
    """

    x: Float[Array, "N H W K"]
    kernel: Float[Array, "K C"]

    def moments(self, size: int, near: Statistic, *, one_pass: bool | None) -> Moments:
        """As `Activations.moments`; it always takes one pass."""
        return product_moments(in_groups(self.x, size), self.kernel)

    def scaled(self, size: int | None, factor: Statistic, shift: Statistic) -> Float[Array, "N H W C"]:
        """As `Activations.scaled`."""
        y = scaled_product(in_groups(self.x, size), self.kernel, factor, shift)
        return y.reshape(*self.x.shape[:-1], -1)


@dataclass(frozen=True)
class Pooled:
    """A convolution's output, times `sign` of each channel, that is pooled before it is normalised.

    The maximum of `x * factor + shift` over a window is that of `x`, scaled and shifted: so only a quarter of the
    values need be normalised, and what is normalised need not be written before it is pooled.
    """

    x: Float[Array, "N H W C"]
    sign: Float[Array, "1 1 1 1 C"]
    pool: Callable[[Array], Array]

    def moments(self, size: int, near: Statistic, *, one_pass: bool | None) -> Moments:
        """As `Activations.moments`, of the output without its sign."""
        mean, var = Activations(self.x, self.x.dtype).moments(size, near * self.sign, one_pass=one_pass)
        return mean * self.sign, var

    def scaled(self, size: int | None, factor: Statistic, shift: Statistic) -> Float[Array, "N H2 W2 C"]:
        """`pool(x * factor + shift)`."""
        return Activations(self.pool(self.x), self.x.dtype).scaled(size, factor * self.sign, shift)


def in_groups(x: Array, size: int | None) -> Float[Array, "G n H W C"]:
    """Consecutive images together; None = `x` itself, without groups."""
    return x if size is None else x.reshape(-1, size, *x.shape[1:])
