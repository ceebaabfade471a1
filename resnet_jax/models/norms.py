"""Normalisation: batch normalisation with PyTorch's semantics, and the table of what `norm=` may name."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from resnet_jax.models.layers import Dtype


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015) with the semantics of `torch.nn.BatchNorm2d`.

    Differences from `flax.linen.BatchNorm`: the running variance is the unbiased one, the variance is computed around
    the mean rather than as E[x^2] - E[x]^2, statistics are taken over fixed groups of images, and *normalising with
    batch statistics* and *updating the running ones* are separate switches.

    Statistics are float32 (float64 for float64 input). With groups, the running statistics move towards the mean over
    the groups of each group's own statistics.

    Attributes:
      use_batch_stats: normalise with the statistics of this batch rather than the running ones.
      update_stats: move the running statistics towards those of this batch (`batch_stats` must be mutable).
      group_size: consecutive images that share statistics, 0 = the whole batch. A fixed number, not "whatever is on
        this device", so that a config means the same on any number of devices.
      axis_name: of `jax.shard_map` or `vmap`: where groups are the whole batch, that of all members of the axis.
      momentum: of the running average, flax's convention: 0.9 here is 0.1 in PyTorch.
    """

    use_batch_stats: bool
    update_stats: bool
    group_size: int = 0
    axis_name: str | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
        """Normalises each channel of (N, H, W, C).

        Raises:
          ValueError: the batch is not divisible by `group_size`, or a group holds a single value per channel, whose
            unbiased variance does not exist.
        """
        channels = x.shape[-1]
        scale = self.param("scale", self.scale_init, (channels,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,), self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), self.param_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), self.param_dtype)

        dtype = self.dtype or jnp.promote_types(x.dtype, self.param_dtype)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        grouped, mean, var = x, running_mean.value, running_var.value
        if self.use_batch_stats or self.update_stats:
            groups, batch_mean, batch_var = self._batch_statistics(x)
            if self.update_stats and not self.is_initializing():
                count = groups[0].size // channels * self._members  # values that each statistic was taken over
                self._move(running_mean, batch_mean)
                self._move(running_var, batch_var * (count / (count - 1)))
            if self.use_batch_stats:
                grouped, mean, var = groups, batch_mean, batch_var
        factor = lax.rsqrt(var + self.epsilon) * _like(scale, var)
        shift = _like(bias, var) - mean * factor  # one multiply-add per value, and `x` alone is kept for the backward
        out = grouped * _like(factor, grouped) + _like(shift, grouped)
        return out.reshape(x.shape).astype(dtype)

    def _batch_statistics(self, x: Array) -> tuple[Array, Array, Array]:
        """(N, H, W, C) as (groups, group_size, H, W, C), with (groups, 1, 1, 1, C) mean and biased variance."""
        size = self.group_size or x.shape[0]
        if x.shape[0] % size:
            raise ValueError(
                f"BatchNorm: a batch of {x.shape[0]} images is not divisible into groups of {size}; "
                "choose a batch size that is a multiple of bn_group_size"
            )
        grouped = x.reshape(-1, size, *x.shape[1:])
        if grouped[0].size * self._members == x.shape[-1] and not self.is_initializing():
            raise ValueError(
                f"BatchNorm: one value per channel in a group of {size} image(s) of {x.shape[1]}x{x.shape[2]}; batch "
                "statistics need at least two: use larger groups or images, or use_batch_stats=False"
            )
        mean, var = moments(grouped)
        if self._members > 1:  # one exchange: the variance is that within the members and that between them
            mean, var, square = lax.pmean(jnp.stack([mean, var, jnp.square(mean)]), self.axis_name)
            var = var + (square - jnp.square(mean))
        return grouped, mean, var

    @property
    def _members(self) -> int:
        """Of the axis, which share the statistics of this one."""
        return 1 if self.group_size or self.axis_name is None else lax.axis_size(self.axis_name)

    def _move(self, running: nn.Variable, batch: Array) -> None:
        new = jnp.mean(batch, axis=(0, 1, 2, 3)).astype(running.value.dtype)
        running.value = self.momentum * running.value + (1 - self.momentum) * new


@jax.custom_jvp
def moments(x: Float[Array, "G N H W C"]) -> tuple[Float[Array, "G 1 1 1 C"], Float[Array, "G 1 1 1 C"]]:
    """Mean and biased variance of each channel of each group, with a derivative in terms of `x` alone.

    Derived automatically, the variance would keep its deviations from the mean, an array as large as `x`, for the
    backward pass. Derivatives of all orders and both modes are right.
    """
    mean = jnp.mean(x, axis=(1, 2, 3), keepdims=True)
    # The other way round than below, so that the compiler does not take both for one value to keep.
    return mean, jnp.mean(jnp.square(mean - x), axis=(1, 2, 3), keepdims=True)


@moments.defjvp
def _moments_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    (x,), (dx,) = primals, tangents
    mean, var = moments(x)
    d_mean = jnp.mean(dx, axis=(1, 2, 3), keepdims=True)
    # The mean's own tangent does not count: the deviations that it would be multiplied with add up to zero.
    # A mean of its own, lest XLA on CPUs repeat the other's values in an array as large as `x` to share it.
    apart = lax.optimization_barrier(mean)
    d_var = 2 * jnp.mean((x - apart) * dx, axis=(1, 2, 3), keepdims=True)
    return (mean, var), (d_mean, d_var)


def _like(per_channel: Array, x: Array) -> Array:
    """Gives (C,) the rank of `x`; leaves what has it already."""
    return per_channel if per_channel.ndim == x.ndim else per_channel.reshape((1,) * (x.ndim - 1) + (-1,))


# What `norm=` may name. GroupNorm (Wu & He 2018, arXiv:1803.08494) is flax's own, made PyTorch's.
NORMS: dict[str, Callable[..., nn.Module]] = {
    "batch": BatchNorm,
    "frozen": partial(BatchNorm, use_batch_stats=False, update_stats=False),
    "group": partial(nn.GroupNorm, num_groups=32, epsilon=1e-5, use_fast_variance=False),
}


def bind(
    norm: Callable[..., nn.Module],
    *,
    use_batch_stats: bool,
    update_stats: bool,
    group_size: int,
    axis_name: str | None,
    dtype: Dtype | None,
    param_dtype: Dtype,
) -> Callable[..., nn.Module]:
    """`norm` (a module class, or a `partial` of one, whose own keywords win) with the options of this network and call.

    Only a norm with a field `use_batch_stats` is told how to treat batch statistics.
    """
    options = {"dtype": dtype, "param_dtype": param_dtype}
    if field_default(norm, "use_batch_stats") is not None:
        options |= {"use_batch_stats": use_batch_stats, "update_stats": update_stats}
        options |= {"group_size": group_size, "axis_name": axis_name}
    return partial(norm, **(options | getattr(norm, "keywords", {})))


def field_default(norm: Callable[..., nn.Module], name: str) -> Any:
    """What `norm` has for the field `name` until it is told: None where it has no such field."""
    if isinstance(norm, partial) and name in norm.keywords:
        return norm.keywords[name]
    module: Any = norm.func if isinstance(norm, partial) else norm
    field = module.__dataclass_fields__.get(name)
    return field and field.default
