"""A moving average of parameters and BatchNorm statistics, often better than the last ones (Polyak & Juditsky 1992)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from resnet_jax.config import Config


def scaled_decay(config: Config) -> float:
    """The decay of one update of the average, as in torchvision's reference script: `1 - ema_decay` is multiplied by
    the number of images between two updates and divided by the epochs. So one number serves any batch size and length.
    """
    rate = (1 - config.optim.ema_decay) * config.batch_size * config.optim.ema_every_steps / config.epochs
    return 1 - min(1.0, rate)


@dataclass(frozen=True)
class Average:
    """The rule of the average: a copy after every update of the warm-up; then it moves at every `every`-th one.

    As in torchvision's script, it moves after the updates 1, 1 + `every` and so on, and the first move after the
    warm-up is still a copy. (The script counts anew in each epoch, and in the warm-up it copies only at the updates
    where it would move.)

    Attributes:
      decay: of one move.
      every: updates from one move to the next.
      warmup: updates during which the average is a copy.
    """

    decay: float
    every: int
    warmup: int

    def copies(self, step: Int[Array, ""]) -> Bool[Array, ""]:
        """Whether the average becomes the variables after this update."""
        return (step <= self.warmup) | (self._moves(step) & (step - self.every <= self.warmup))

    def __call__(
        self, step: Int[Array, ""], old: PyTree[Array], new: PyTree[Array], due: Bool[Array, ""] | bool = False
    ) -> PyTree[Array]:
        """The average after an update.

        Args:
          step: the number of the update.
          old: the average so far.
          new: the variables after the update.
          due: whether a copy is to be made up for, since its update was skipped.
        """
        kept = jnp.where(self.copies(step) | due, 0.0, jnp.where(self._moves(step), self.decay, 1.0))
        return jax.tree.map(lambda o, n: kept.astype(o.dtype) * o + (1 - kept).astype(o.dtype) * n, old, new)

    def _moves(self, step: Int[Array, ""]) -> Bool[Array, ""]:
        return (step - 1) % self.every == 0
