"""Losses of single numbers, as PyTorch and torchvision have them, and what the losses of a detector have in common."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from resnet_jax.tasks.detect.find import flat as of_levels

Sums = dict[str, tuple[Float[Array, " N"], Float[Array, " N"]]]
"""By name: for each image the sum of a loss, and the count that divides it, see `training.step.Losses.several`."""


class Objects(NamedTuple):
    """The objects of N images, with M places for each.

    Attributes:
      boxes: on the canvas, in pixels. What a place without an object holds does not matter.
      classes: 1 to K - 1; where there is no object, less than 1.
    """

    boxes: Float[Array, "N M 4"]
    classes: Int[Array, "N M"]

    @property
    def real(self) -> Bool[Array, "N M"]:
        """Which places hold an object."""
        return self.classes > 0


def flat(levels: Sequence[Float[Array, "N H W _"]], size: int) -> Float[Array, "N P S"]:
    """The numbers of all anchors in the order of `find.anchors_of`: `size` for each."""
    return jnp.concatenate(of_levels(tuple(levels), size), axis=1)


def smooth_l1(said: Float[Array, "*B"], wanted: Float[Array, "*B"], beta: float) -> Float[Array, "*B"]:
    """A square up to a difference of `beta`, and a line from there: `torch.nn.functional.smooth_l1_loss`."""
    apart = jnp.abs(said - wanted)
    return jnp.where(apart < beta, 0.5 * apart**2 / beta, apart - 0.5 * beta)


def binary_cross_entropy(logits: Float[Array, "*B"], wanted: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """`torch.nn.functional.binary_cross_entropy_with_logits`."""
    return jnp.maximum(logits, 0) - logits * wanted + jnp.log1p(jnp.exp(-jnp.abs(logits)))


def focal(
    logits: Float[Array, "*B"], wanted: Float[Array, "*B"], alpha: float = 0.25, gamma: float = 2.0
) -> Float[Array, "*B"]:
    """The focal loss of yes and no (Lin et al. 2017, arXiv:1708.02002, equation 5), torchvision's `sigmoid_focal_loss`.

    Args:
      wanted: 0 or 1.
    """
    missed = jnp.where(wanted > 0, jax.nn.sigmoid(-logits), jax.nn.sigmoid(logits))
    return jnp.where(wanted > 0, alpha, 1 - alpha) * binary_cross_entropy(logits, wanted) * missed**gamma


def focal_of_classes(
    logits: Float[Array, "P K"], classes: Int[Array, " P"], counted: Bool[Array, " P"]
) -> Float[Array, ""]:
    """The sum over the anchors that are counted and over all classes.

    Args:
      classes: which class is to be found; none below 1.
    """
    classes = classes[:, None]
    wanted = (classes == jnp.arange(logits.shape[1])[None]) & (classes > 0)
    return jnp.sum(jnp.where(counted[:, None], focal(logits, wanted.astype(logits.dtype)), 0))


def of_objects(values: Array, found: Int[Array, " P"]) -> Array:
    """For each anchor the row of its object. Where it has none (`matching.NOTHING`), any row."""
    return values[jnp.maximum(found, 0)]
