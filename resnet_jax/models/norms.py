"""Normalisation: batch normalisation with PyTorch's semantics, and the names that `norm=` accepts."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from resnet_jax.models.deferred import Activations, Convolution, Pooled, Product
from resnet_jax.models.layers import Dtype
from resnet_jax.models.moments import Moments, widened


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015) with the semantics of `torch.nn.BatchNorm2d`, or 1d and 3d.

    Differences from `flax.linen.BatchNorm`:

    - The running variance is the unbiased one.
    - The variance is computed around the mean (for 16 bits, around the running mean), not as E[x^2] - E[x]^2.
    - Statistics are taken over fixed groups of images.
    - *Normalising with batch statistics* and *updating the running statistics* are separate switches.

    Statistics are float32 (float64 for float64 input). With groups, each group has its own statistics, and the running
    statistics move towards the mean of these over the groups.

    Attributes:
      use_batch_stats: normalise with the statistics of this batch, not with the running ones.
      update_stats: move the running statistics towards those of this batch (`batch_stats` must be mutable).
      group_size: consecutive images that share statistics, 0 = the whole batch. It is a fixed number, not "all images
        on this device", so that a config means the same on any number of devices.
      axis_name: an axis of `jax.shard_map` or `vmap`. Where a group is the whole batch, it is that of all members of
        the axis.
      momentum: of the running average, in flax's convention: 0.9 here is 0.1 in PyTorch.
      one_pass: compute the statistics in one pass over the activations, around the running mean, and the statistics of
        a 1x1 convolution that widens without its output (see `deferred`). None = only for activations of 16 bits. One
        pass moves less memory, and rounds differently.
    """

    use_batch_stats: bool
    update_stats: bool
    group_size: int = 0
    axis_name: str | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5
    one_pass: bool | None = None
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N *S C"] | Convolution) -> Float[Array, "N *S2 C"]:
        """Normalises each channel of (N, H, W, C), (N, T, H, W, C) and so on, or of a convolution before it is
        computed.

        Raises:
          ValueError: the batch is not divisible by `group_size`, or a group has only one value per channel, so that it
            has no unbiased variance.
        """
        channels = x.channels if isinstance(x, Convolution) else x.shape[-1]
        scale = self.param("scale", self.scale_init, (channels,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,), self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), self.param_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), self.param_dtype)

        values: Activations | Product | Pooled
        if isinstance(x, Convolution):
            values = x.settle(scale)
        else:
            values = Activations(x, self.dtype or jnp.promote_types(x.dtype, self.param_dtype))
        size, mean, var = None, running_mean.value, running_var.value
        broad = lambda leaf: leaf.reshape([1] * values.x.ndim + [-1])
        if self.use_batch_stats or self.update_stats:
            groups = self.group_size or len(values.x)
            self._check_groups(values.x, groups)
            batch_mean, batch_var = self._batch_statistics(values, groups, broad(mean))
            if self.update_stats and not self.is_initializing():
                # How many values each statistic was taken over.
                count = groups * math.prod(values.x.shape[1:-1]) * self._members
                self._move(running_mean, batch_mean)
                self._move(running_var, batch_var * (count / (count - 1)))
            if self.use_batch_stats:
                size, mean, var, scale, bias = groups, batch_mean, batch_var, broad(scale), broad(bias)
        factor = lax.rsqrt(var + self.epsilon) * scale
        shift = bias - mean * factor
        if size is None:  # running statistics: the same for all images
            ones = [1] * (values.x.ndim - 1)
            return values.scaled(None, factor.reshape(*ones, -1), shift.reshape(*ones, -1))
        # The barrier: XLA would otherwise sum the gradients of `bias` over all images in a pass of its own, although
        # the gradient of `mean` needs the sums of each group anyway.
        factor, shift = lax.optimization_barrier((factor, shift))
        return values.scaled(size, factor, shift)

    def takes_convolutions(self, dtype: Dtype) -> bool:
        """Whether this norm uses batch statistics, and computes them in one pass for activations of this dtype."""
        return self.use_batch_stats and (jnp.dtype(dtype).itemsize == 2 if self.one_pass is None else self.one_pass)

    def _check_groups(self, x: Array, size: int) -> None:
        if len(x) % size:
            raise ValueError(
                f"BatchNorm: a batch of {len(x)} images is not divisible into groups of {size}; "
                "choose a batch size that is a multiple of bn_group_size"
            )
        if size * math.prod(x.shape[1:-1]) * self._members == 1 and not self.is_initializing():
            sides = "x".join(map(str, x.shape[1:-1])) or "a single value"
            raise ValueError(
                f"BatchNorm: one value per channel in a group of {size} image(s) of {sides}; batch "
                "statistics need at least two: use larger groups or images, or use_batch_stats=False"
            )

    def _batch_statistics(self, values: Any, size: int, running_mean: Array) -> Moments:
        """Means and biased variances of the groups."""
        mean, var = values.moments(size, lax.stop_gradient(widened(running_mean)), one_pass=self.one_pass)
        if self._members > 1:  # one exchange: the variance is the one within the members plus the one between them
            mean, var, square = lax.pmean(jnp.stack([mean, var, jnp.square(mean)]), self.axis_name)
            var = var + (square - jnp.square(mean))
        return mean, var

    @property
    def _members(self) -> int:
        """How many members of the axis share one set of statistics."""
        return 1 if self.group_size or self.axis_name is None else lax.axis_size(self.axis_name)

    def _move(self, running: nn.Variable, batch: Array) -> None:
        new = jnp.mean(batch, axis=tuple(range(batch.ndim - 1))).astype(running.value.dtype)
        running.value = self.momentum * running.value + (1 - self.momentum) * new


# The names that `norm=` accepts. GroupNorm (Wu & He 2018, arXiv:1803.08494) is flax's own, with PyTorch's settings.
NORMS: dict[str, Callable[..., nn.Module]] = {
    "batch": BatchNorm,
    "frozen": partial(BatchNorm, use_batch_stats=False, update_stats=False),
    # Of torchvision's detectors, whose first published weights were trained so.
    "frozen_eps0": partial(BatchNorm, use_batch_stats=False, update_stats=False, epsilon=0.0),
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
    """`norm` (a module class, or a `partial` of one, whose keywords win) with the options of this network and call.

    Only a norm with a field `use_batch_stats` is told how to treat batch statistics.
    """
    options = {"dtype": dtype, "param_dtype": param_dtype}
    if field_default(norm, "use_batch_stats") is not None:
        options |= {"use_batch_stats": use_batch_stats, "update_stats": update_stats}
        options |= {"group_size": group_size, "axis_name": axis_name}
    return partial(norm, **(options | getattr(norm, "keywords", {})))


def field_default(norm: Callable[..., nn.Module], name: str) -> Any:
    """The value that `norm` has for the field `name` before options are passed: None if it has no such field."""
    if isinstance(norm, partial) and name in norm.keywords:
        return norm.keywords[name]
    module: Any = norm.func if isinstance(norm, partial) else norm
    field = module.__dataclass_fields__.get(name)
    return field and field.default
