"""FCOS (Tian et al. 2019, arXiv:1904.01355): places find objects, and say how far its sides are.

As `torchvision.models.detection.fcos`. An anchor is a square around a place, and its side is the stride.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from resnet_jax.tasks.detect.boxes import area, encode_sides
from resnet_jax.tasks.detect.matching import NOTHING

_ABOVE_ALL_AREAS = 1e8


def match_places(
    anchors: Float[Array, "P 4"],
    levels: Sequence[int],
    boxes: Float[Array, "M 4"],
    real: Bool[Array, " M"],
    radius: float,
) -> Int[Array, " P"]:
    """The object that each place is to find, or `NOTHING`: of those that it lies inside, near the middle, and that are
    as large as its level is for, the smallest.

    Args:
      levels: how many anchors each level has.
      real: whether an object is one, and not padding.
      radius: how near the middle, in strides.
    """
    middle, side = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2] - anchors[:, 0]
    away = jnp.abs(middle[:, None] - (boxes[:, :2] + boxes[:, 2:])[None] / 2)
    near = jnp.max(away, axis=2) < radius * side[:, None]
    sides = jnp.concatenate([middle[:, None] - boxes[None, :, :2], boxes[None, :, 2:] - middle[:, None]], axis=2)
    number = np.repeat(np.arange(len(levels)), levels)
    low = jnp.where(number == 0, 0, 4 * side)[:, None]
    high = jnp.where(number == len(levels) - 1, jnp.inf, 8 * side)[:, None]
    longest = jnp.max(sides, axis=2)
    fits = near & (jnp.min(sides, axis=2) > 0) & (longest > low) & (longest < high) & real[None]
    # As in torchvision: objects of areas that are the same after rounding to float32 are as small as each other.
    smallness = jnp.where(fits, _ABOVE_ALL_AREAS - area(boxes)[None], 0)
    return jnp.where(jnp.max(smallness, axis=1) < 1e-5, NOTHING, jnp.argmax(smallness, axis=1))


def centred_at(anchors: Float[Array, "P 4"], boxes: Float[Array, "P 4"]) -> Float[Array, " P"]:
    """How near a place is to the middle of its object: 1 in the middle, 0 at a side (section 3.3, equation 3)."""
    sides = encode_sides(boxes, anchors)
    one, other = sides[:, :2], sides[:, 2:]
    return jnp.sqrt(jnp.prod(jnp.minimum(one, other) / jnp.maximum(one, other), axis=1))
