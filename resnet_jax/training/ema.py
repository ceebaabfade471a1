"""A moving average of parameters and BatchNorm statistics, often better than the last ones (Polyak & Juditsky 1992)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from resnet_jax.config import Config

Average = Callable[[Int[Array, ""], PyTree[Array], PyTree[Array]], PyTree[Array]]
"""`(number of the update, average so far, variables after the update) -> average`."""


def scaled_decay(config: Config) -> float:
    """The decay of one update of the average, as in torchvision's reference script: `1 - ema_decay` is multiplied by
    the number of images between two updates and divided by the epochs. So one number serves any batch size and length.
    """
    rate = (1 - config.optim.ema_decay) * config.batch_size * config.optim.ema_every_steps / config.epochs
    return 1 - min(1.0, rate)


def make_average(decay: float, every: int, warmup: int) -> Average:
    """Returns the rule of the average: a copy after every update of the warm-up; then it moves at every `every`-th
    update.

    As in torchvision's script, it moves after the updates 1, 1 + `every` and so on, and the first move after the
    warm-up is still a copy. (The script counts anew in each epoch, and in the warm-up it copies only at the updates
    where it would move.)
    """

    def average(step: Int[Array, ""], old: PyTree[Array], new: PyTree[Array]) -> PyTree[Array]:
        moves = (step - 1) % every == 0
        copies = (step <= warmup) | (moves & (step - every <= warmup))
        kept = jnp.where(copies, 0.0, jnp.where(moves, decay, 1.0))
        return jax.tree.map(lambda o, n: kept.astype(o.dtype) * o + (1 - kept).astype(o.dtype) * n, old, new)

    return average
