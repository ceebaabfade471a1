"""Sums over a batch, divided by counts that are known only when all devices and parts have theirs."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Several = Mapping[str, tuple[Float[Array, " N"], Float[Array, " N"]]]
"""Losses by name: for each example a sum, and the count that belongs to it."""
Counts = Callable[[Several | None], dict[str, Float[Array, ""]]]


def mean_counts(several: Several | None) -> dict[str, Float[Array, ""]]:
    """The mean over the examples of the counts of each of several losses."""
    return {name: jax.lax.stop_gradient(jnp.mean(count)) for name, (_, count) in (several or {}).items()}


def mean_of_several(
    several: Several | None, counts: Mapping[str, Float[Array, ""]], size: Float[Array, ""]
) -> dict[str, Float[Array, ""]]:
    """Each of several losses of a part, so that the mean over the parts is `sum(loss) / max(1, sum(count))`.

    Args:
      counts: the mean over the whole batch of the counts of each.
      size: examples of the whole batch.
    """
    losses = {name: loss for name, (loss, _) in (several or {}).items()}
    return {name: jnp.mean(loss) * size / jnp.maximum(counts[name] * size, 1) for name, loss in losses.items()}


def per_weight(means: dict[str, Any], weight: Float[Array, ""]) -> dict[str, Any]:
    """Divides by the weight: turns means over the examples into sums divided by the sum of the weights.

    For use after the one exchange, when the weights of all parts are known. Gradients are linear, so this is exact.
    """
    divisor = jnp.where(weight > 0, weight, 1)
    return jax.tree.map(lambda mean: jnp.where(weight > 0, mean / divisor, 0).astype(mean.dtype), means)
