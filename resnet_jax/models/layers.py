"""Convolution, pooling, gating and stochastic depth with PyTorch's semantics, in NHWC layout.

A port usually does not say these things, and they are explicit here: padding in numbers, He fan-out initialisation, and
which pixels a pooling window at the border averages over.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Int

from resnet_jax.errors import ModelError
from resnet_jax.models.deferred import Convolution
from resnet_jax.models.forms import dilated, kept, per_platform, pointwise, same
from resnet_jax.models.volume import volume
from resnet_jax.models.winograd import plane

Dtype = Any

# He et al. 2015 (arXiv:1502.01852), as torchvision initialises its convolutions: normal, variance 2 / fan_out.
he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

# torch.nn.Linear's default: weight and bias uniform in +-1 / sqrt(fan_in).
linear_kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def linear_bias_init(fan_in: int) -> nn.initializers.Initializer:
    """torch.nn.Linear's bias: uniform in +-1 / sqrt(fan_in)."""

    def init(key: Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -1.0, 1.0) / jnp.sqrt(fan_in).astype(dtype)

    return init


Sides = int | tuple[int, ...]  # one number for all axes, or one for each
FAR = 8  # a dilation of DeepLabV3's head (12, 24, 36), not of a backbone (2, 4), where XLA's convolution is fast


class Conv(nn.Module):
    """Convolution along all axes between the first and the last. As in torchvision, every side is padded by
    `(kernel_size - 1) // 2 * dilation`.

    Attributes:
      kernel_size, stride, dilation: one number for all axes, or one for each axis. On (N, T, H, W, C) a kernel
        of (1, 3, 3) sees one frame at a time.
      padding: (before, after) in pixels, for every axis; replaces the padding above.
      border_in_time: of (N, T, H, W, C): the first and the last frame are repeated before and behind, instead of zeros.
      precision: of products of float32 numbers; None = the platform's default.
      standardize: give each filter zero mean and unit variance before use (weight standardisation, Qiao et al. 2019,
        arXiv:1903.10520; epsilon as in timm's `StdConv2d`).
    """

    features: int
    kernel_size: Sides
    stride: Sides = 1
    groups: int = 1
    dilation: Sides = 1
    padding: tuple[int, int] | None = None
    use_bias: bool = False
    standardize: bool = False
    border_in_time: bool = False
    kernel_init: nn.initializers.Initializer = he_normal_fan_out
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    precision: lax.PrecisionLike = None
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N *S C"], *, deferred: bool = False) -> Float[Array, "N *S2 D"] | Convolution:
        """(N, H, W, C) -> (N, ceil(H / stride), ceil(W / stride), features), and likewise for one axis or three.

        Args:
          deferred: return the convolution before it is computed, for `norms.BatchNorm`. Only without a bias, and only
            for (N, H, W, C).

        Raises:
          ModelError: `groups` do not divide the channels, or a field has another number of axes than `x`.
        """
        sizes = self._of_axes("kernel_size", x)
        if x.shape[-1] % self.groups or self.features % self.groups:
            raise ModelError(
                f"Conv: {self.groups} groups do not divide {x.shape[-1]} input and {self.features} output channels; "
                "choose a divisor of both"
            )
        shape = (*sizes, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        if self.standardize:
            kernel = standardized(kernel)
        dtype = self.output_dtype(x)
        x = x.astype(dtype)
        if deferred:
            return Convolution(x, kernel, self._convolve, self._of_axes("stride", x)[0])
        y = self._convolve(x, kernel)
        if not self.use_bias:
            return y
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype)
        return y + bias.astype(y.dtype).reshape(*[1] * (y.ndim - 1), -1)

    def output_dtype(self, x: Array) -> Dtype:
        """The dtype of the activations, in which the convolution is computed."""
        return jnp.dtype(self.dtype or jnp.promote_types(x.dtype, self.param_dtype))

    def widens(self, x: Array) -> bool:
        """Whether this is a plain 1x1 convolution to at least twice as many channels: see `deferred.Product`."""
        plain = x.ndim == 4 and self._is_pointwise(x) and self.groups == 1 and not self.use_bias
        return plain and 2 * x.shape[-1] <= self.features

    def _convolve(self, x: Array, kernel: Array) -> Array:
        kernel = kernel.astype(x.dtype)
        strides, dilations = self._of_axes("stride", x), self._of_axes("dilation", x)
        precision = self.precision if x.dtype == jnp.float32 else None
        if x.ndim == 4 and self._is_pointwise(x) and self.groups == 1:
            return pointwise(x, kernel[0, 0], precision, strides[0])
        if self._is_far(x, kernel):
            return dilated(x, kernel, dilations[0], precision)
        window = self.window(x)
        if x.ndim == 5:
            return volume(x, kernel, window, border=self.border_in_time, precision=precision)
        if x.ndim == 4:
            return plane(x, kernel, window, precision)
        return lax.conv_general_dilated(x, kernel, **window, precision=precision)

    def window(self, x: Array) -> dict[str, Any]:
        """How the kernel moves over `x`, as `lax.conv_general_dilated` is told."""
        sizes, strides, dilations = (self._of_axes(field, x) for field in ("kernel_size", "stride", "dilation"))
        symmetric = [(size - 1) // 2 * dilation for size, dilation in zip(sizes, dilations, strict=True)]
        axes = "DHW"[-len(strides) :]
        return {
            "window_strides": strides,
            "padding": [self.padding or (side, side) for side in symmetric],
            "rhs_dilation": dilations,
            "dimension_numbers": (f"N{axes}C", f"{axes}IO", f"N{axes}C"),
            "feature_group_count": self.groups,
        }

    def _is_pointwise(self, x: Array) -> bool:
        return set(self._of_axes("kernel_size", x)) == {1} and len(set(self._of_axes("stride", x))) == 1

    def _is_far(self, x: Array, kernel: Array) -> bool:
        """Whether this is a plain 3x3 convolution whose taps are so far apart that many see padding."""
        plain = kernel.shape[:-2] == (3, 3) and self.groups == 1 and self.padding is None
        down, across = self._of_axes("dilation", x) if plain else (1, 1)
        return down == across >= FAR and self._of_axes("stride", x) == (1, 1)

    def _of_axes(self, field: str, x: Array) -> tuple[int, ...]:
        """A field's numbers, one for each axis of `x` that is convolved."""
        given, axes = getattr(self, field), x.ndim - 2
        if axes not in (1, 2, 3) or (not isinstance(given, int) and len(given) != axes):
            raise ModelError(
                f"Conv.{field} = {given} does not fit an input of shape {x.shape}, which has {axes} axes between "
                "images and channels; give one number, or one for each of one to three axes"
            )
        return (given,) * axes if isinstance(given, int) else tuple(given)


def standardized(kernel: Float[Array, "*S I O"]) -> Float[Array, "*S I O"]:
    """Each filter with zero mean and unit variance, as `Conv.standardize` asks."""
    within = tuple(range(kernel.ndim - 1))
    mean = jnp.mean(kernel, axis=within, keepdims=True)
    var = jnp.mean(jnp.square(kernel - mean), axis=within, keepdims=True)
    return (kernel - mean) * lax.rsqrt(var + 1e-6)


@jax.custom_jvp
def relu(x: Array) -> Array:
    """The positive part. Its derivative looks at its output, which the next layer keeps anyway, and not at `x`."""
    return jnp.maximum(x, 0)


@relu.defjvp
def _relu_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    y = relu(*primals)
    return y, jnp.where(y > 0, tangents[0], jnp.zeros((), y.dtype))


@jax.custom_jvp
def kept_relu(x: Array) -> Array:
    """`kept(relu(x))`, with a derivative that looks at the kept output."""
    return kept(jnp.maximum(x, 0))


@kept_relu.defjvp
def _kept_relu_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    y = kept_relu(*primals)
    # Without the barrier, XLA for GPUs would look at the sum before the maximum instead. It would keep the sum for
    # that, and fuse neither into the product before.
    out = per_platform(y, cuda=lax.optimization_barrier, default=same)
    return y, jnp.where(out > 0, tangents[0], jnp.zeros((), y.dtype))


def trained(act: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The form of `act` for values that training reads several times: `kept_relu` for a 16-bit `relu`, else `act`."""
    return (lambda x: kept_relu(x) if x.dtype.itemsize == 2 else relu(x)) if act is relu else act


class PReLU(nn.Module):
    """The identity where `x` is positive, and elsewhere a multiple that is learnt for each channel (He et al. 2015,
    arXiv:1502.01852), as `torch.nn.PReLU(channels)`. It begins as a quarter, as there."""

    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N *S C"]) -> Float[Array, "N *S C"]:
        slope = self.param("slope", nn.initializers.constant(0.25), (x.shape[-1],), self.param_dtype)
        return jnp.where(x > 0, x, x * slope.astype(x.dtype).reshape(*[1] * (x.ndim - 1), -1))


def prelu(x: Float[Array, "N *S C"]) -> Float[Array, "N *S C"]:
    """`PReLU` as a submodule `prelu` of the module in whose compact method it is called. So a module has one."""
    return PReLU(param_dtype=jnp.promote_types(x.dtype, jnp.float32), name="prelu")(x)


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate that is computed from the means of all channels (Hu et al. 2017, arXiv:1709.01507).

    The hidden width is `channels / ratio` rounded to a multiple of 8, and at least 8. The activation in the gate is
    always ReLU, whatever the network's is, as in timm's `SEModule`.
    """

    ratio: int
    conv: Any

    @nn.compact
    def __call__(self, x: Float[Array, "N *S C"]) -> Float[Array, "N *S C"]:
        channels = x.shape[-1]
        gate = jnp.mean(x, axis=_sides(x), keepdims=True)
        gate = nn.relu(self.conv(squeezed(channels, self.ratio), 1, use_bias=True, name="fc1")(gate))
        return x * nn.sigmoid(self.conv(channels, 1, use_bias=True, name="fc2")(gate))


def squeezed(channels: int, ratio: int) -> int:
    """Channels inside a squeeze-and-excitation gate."""
    return max(8, int(channels / ratio + 4) // 8 * 8)


def stochastic_depth(
    y: Float[Array, "N *S C"], key: Array, drop_rate: float, positions: Int[Array, " N"] | None = None
) -> Float[Array, "N *S C"]:
    """Zeroes the whole branch of each image with probability `drop_rate`, else divides it by the probability of
    keeping.

    Huang et al. 2016, arXiv:1603.09382, scale in evaluation instead.

    Args:
      positions: places of the images in the global batch; None = from 0. Each draw belongs to a place, so it depends
        neither on the number of devices nor on which part of the batch `y` is.
    """
    places = jnp.arange(y.shape[0]) if positions is None else positions
    keep = jax.vmap(lambda place: jax.random.bernoulli(jax.random.fold_in(key, place), 1 - drop_rate))(places)
    keep = keep.reshape(-1, *[1] * (y.ndim - 1))
    return jnp.where(keep, y / jnp.asarray(1 - drop_rate, y.dtype), jnp.zeros([1] * y.ndim, y.dtype))


def dropout(
    y: Float[Array, "N *S C"], key: Array, rate: float, positions: Int[Array, " N"] | None = None
) -> Float[Array, "N *S C"]:
    """Zeroes each number with probability `rate`, else divides it by the probability of keeping.

    Args:
      positions: as in `stochastic_depth`.
    """
    places = jnp.arange(y.shape[0]) if positions is None else positions
    draw = lambda place: jax.random.bernoulli(jax.random.fold_in(key, place), 1 - rate, y.shape[1:])
    return jnp.where(jax.vmap(draw)(places), y / jnp.asarray(1 - rate, y.dtype), jnp.zeros([1] * y.ndim, y.dtype))


def average(x: Float[Array, "N *S C"]) -> Float[Array, "N C"]:
    return jnp.mean(x, axis=_sides(x))


def maximum(x: Float[Array, "N *S C"]) -> Float[Array, "N C"]:
    return jnp.max(x, axis=_sides(x))


def _sides(x: Array) -> tuple[int, ...]:
    """The axes between that of the images and that of the channels."""
    return tuple(range(1, x.ndim - 1))


# The names that `act=` and `pool=` accept. The names of the pools are timm's.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": relu,
    "prelu": prelu,
    "leaky_relu": nn.leaky_relu,
    "silu": nn.silu,
    "gelu": partial(nn.gelu, approximate=False),  # torch's and timm's; flax's default is the tanh form
}
POOLS: dict[str, Callable[[Array], Array]] = {
    "avg": average,
    "max": maximum,
    "avgmax": lambda x: (average(x) + maximum(x)) / 2,
    "catavgmax": lambda x: jnp.concatenate([average(x), maximum(x)], axis=-1),
}
