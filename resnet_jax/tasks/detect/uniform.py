"""YOLOF's uniform matching (Chen et al. 2021, arXiv:2103.09460, section 4.2): every object, however large, gets the
same number of anchors.

As the authors' `yolof/modeling/uniform_matcher.py`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Pairs(NamedTuple):
    """Anchors and the objects that they are to find; Q pairs.

    Attributes:
      anchors, objects: their places.
      real: whether a pair is one, and not padding.
      last: for each anchor the last of its pairs; -1 = it has none.
    """

    anchors: Int[Array, " Q"]
    objects: Int[Array, " Q"]
    real: Bool[Array, " Q"]
    last: Int[Array, " P"]


def match_uniformly(
    said: Float[Array, "P 4"],
    anchors: Float[Array, "P 4"],
    boxes: Float[Array, "M 4"],
    real: Bool[Array, " M"],
    times: int,
) -> Pairs:
    """For each object the `times` anchors whose boxes are nearest to it, and the `times` anchors that are themselves.

    Args:
      said: the boxes that the network says for the anchors.
      real: whether an object is one, and not padding.
    """
    times = min(times, len(anchors))
    # (times, M) each: the nearest for all objects first, then the next.
    nearest = [jax.lax.top_k(-_distance(one, boxes).T, times)[1].T for one in (said, anchors)]
    chosen = jnp.stack(nearest, axis=1)  # (times, 2, M)
    objects = jnp.broadcast_to(jnp.arange(len(boxes))[None, None], chosen.shape).reshape(-1)
    chosen, is_real = chosen.reshape(-1), real[objects]
    number = jnp.where(is_real, jnp.arange(len(chosen)), -1)
    return Pairs(chosen, objects, is_real, jnp.full(len(anchors), -1).at[chosen].max(number))


def _distance(one: Float[Array, "P 4"], other: Float[Array, "M 4"]) -> Float[Array, "P M"]:
    """The sum of the differences of middles, widths and heights."""
    middles = lambda boxes: jnp.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
    return jnp.sum(jnp.abs(middles(one)[:, None] - middles(other)[None]), axis=2)
