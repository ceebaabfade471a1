"""Non-maximum suppression with fixed shapes: exactly the set that the greedy algorithm keeps."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from resnet_jax.tasks.detect.boxes import iou


@jax.named_scope("nms")
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


@jax.named_scope("nms")
def best(
    boxes: Float[Array, "N 4"],
    scores: Float[Array, " N"],
    groups: Int[Array, " N"],
    real: Bool[Array, " N"],
    threshold: float,
    count: int,
    *,
    block: int = 512,
) -> tuple[Int[Array, " D"], Bool[Array, " D"]]:
    """The `count` best boxes that `nms` with `groups` keeps, the best first, of any number of them.

    A box is suppressed only by better ones. So boxes are taken in blocks from the best on: what those kept before do
    not suppress goes through `nms`, until `count` are kept or no real box is left, which usually takes one block.

    Returns:
      Their places, and whether there is a box at all.
    """
    block = min(block, len(scores))
    order = jnp.argsort(jnp.where(real, -scores, jnp.inf), stable=True)
    filled = -(-len(scores) // block) * block
    sorted_boxes = jnp.zeros((filled, 4), boxes.dtype).at[: len(order)].set(boxes[order])
    sorted_groups = jnp.zeros(filled, groups.dtype).at[: len(order)].set(groups[order])
    candidates = jnp.sum(real, dtype=jnp.int32)

    def again(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        start, found, kept = state
        at = start + jnp.arange(block)
        own, own_groups = sorted_boxes[at], sorted_groups[at]
        overlaps = iou(own, sorted_boxes[kept]) > threshold
        overlaps &= (own_groups[:, None] == sorted_groups[kept][None]) & (jnp.arange(count) < found)[None]
        alive = (at < candidates) & ~jnp.any(overlaps, axis=1)
        stays = nms(own, -at.astype(boxes.dtype), threshold, real=alive, groups=own_groups)
        places = jnp.where(stays, found + jnp.cumsum(stays) - 1, count)
        return (
            start + block,
            found + jnp.sum(stays, dtype=jnp.int32),
            kept.at[places].set(at.astype(kept.dtype), mode="drop"),
        )

    def unfinished(state: tuple[Array, Array, Array]) -> Array:
        start, found, _ = state
        return (found < count) & (start < candidates)

    zero = jnp.zeros((), jnp.int32)
    _, found, kept = jax.lax.while_loop(unfinished, again, (zero, zero, jnp.zeros(count, jnp.int32)))
    return order[jnp.minimum(kept, len(order) - 1)], jnp.arange(count) < found
