"""Non-maximum suppression with fixed shapes: exactly the set that the greedy algorithm keeps."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from resnet_jax.tasks.detect.boxes import iou


def nms(
    boxes: Float[Array, "N 4"],
    scores: Float[Array, " N"],
    threshold: float,
    *,
    real: Bool[Array, " N"] | None = None,
    groups: Int[Array, " N"] | None = None,
) -> Bool[Array, " N"]:
    """Which boxes stay: those that overlap no better box that stays by more than `threshold`, as
    `torchvision.ops.nms` and, with `groups`, `batched_nms`. Of equal scores the first is better.

    The greedy algorithm goes through the boxes one by one. Here all are decided at once, again and again, until nothing
    changes: after n rounds the n best are certainly right, and usually a few rounds suffice. It takes memory for N x N
    overlaps, so keep N below about 2,000, and leave the rest out beforehand by score.

    Args:
      real: boxes that are no padding; the others do not stay.
      groups: a box is only suppressed by boxes of its own group, such as its class.
    """
    order = jnp.argsort(-scores, stable=True)
    sorted_boxes = boxes[order]
    alive = jnp.ones(len(scores), bool) if real is None else real[order]
    # Of two boxes without area the overlap is nan, which is not larger than the threshold.
    suppresses = (iou(sorted_boxes, sorted_boxes) > threshold) & jnp.tri(len(scores), k=-1, dtype=bool).T
    if groups is not None:
        suppresses &= groups[order][:, None] == groups[order][None]

    def again(state: tuple[Array, Array]) -> tuple[Array, Array]:
        _, keep = state
        return keep, alive & ~jnp.any(suppresses & keep[:, None], axis=0)

    first = alive & ~jnp.any(suppresses & alive[:, None], axis=0)
    _, keep = jax.lax.while_loop(lambda state: jnp.any(state[0] != state[1]), again, (alive, first))
    return jnp.zeros(len(scores), bool).at[order].set(keep)
