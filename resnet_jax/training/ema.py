"""A moving average of parameters and BatchNorm statistics, often better than the last ones (Polyak & Juditsky 1992)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from resnet_jax.config import Config

Average = Callable[[Int[Array, ""], PyTree[Array], PyTree[Array]], PyTree[Array]]
"""`(number of the update, average so far, variables after the update) -> average`."""


def scaled_decay(config: Config) -> float:
    """The decay of one update of the average, after torchvision's reference script: it scales `1 - ema_decay` by the
    images between two updates and divides it by the epochs, so that one number serves any batch size and length."""
    rate = (1 - config.optim.ema_decay) * config.batch_size * config.optim.ema_every_steps / config.epochs
    return 1 - min(1.0, rate)


def make_average(decay: float, every: int, warmup: int) -> Average:
    """Returns the rule of the average: it moves at every `every`-th update, and is a copy until the warm-up is over.

    As in torchvision's script, the first move after `warmup` updates is still a copy.
    """

    def average(step: Int[Array, ""], old: PyTree[Array], new: PyTree[Array]) -> PyTree[Array]:
        kept = jnp.where(step % every == 0, jnp.where(step - every <= warmup, 0.0, decay), 1.0)
        return jax.tree.map(lambda o, n: kept.astype(o.dtype) * o + (1 - kept).astype(o.dtype) * n, old, new)

    return average
