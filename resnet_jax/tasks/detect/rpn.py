"""The losses of proposals: `torchvision.models.detection.rpn.RegionProposalNetwork`."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from resnet_jax.tasks.detect.boxes import encode, iou
from resnet_jax.tasks.detect.losses import Objects, Sums, binary_cross_entropy, flat, of_objects, smooth_l1
from resnet_jax.tasks.detect.matching import NOTHING, match, sample

BETA = 1 / 9
"""Where the loss of boxes becomes a line."""


def rpn_losses(
    model: Any,
    out: dict[str, Any],
    anchors: Float[Array, "P 4"],
    objects: Objects,
    keys: Key[Array, " N"],
) -> Sums:
    """`loss_objectness` and `loss_rpn_box_reg` of each image, to be divided by the anchors that were drawn.

    Args:
      model: says which anchors are to find an object, and how many are drawn.
      out: what the network gives, with `scores` and `deltas` of each level.
      keys: of each image.
    """
    scores, deltas = flat(out["scores"], 1)[..., 0], flat(out["deltas"], 4)

    def of_image(scores: Array, deltas: Array, objects: Objects, key: Array) -> tuple[Array, Array, Array]:
        found, positive, negative = drawn_anchors(model, anchors, objects, key)
        wanted = positive.astype(scores.dtype)
        hits = jnp.where(positive | negative, binary_cross_entropy(scores, wanted), 0)
        # Anchors without an object are compared with themselves: the logarithm of a side of 0 would be infinite.
        own = jnp.where(positive[:, None], of_objects(objects.boxes, found), anchors)
        apart = smooth_l1(deltas, encode(own.astype(deltas.dtype), anchors.astype(deltas.dtype)), BETA)
        boxes = jnp.sum(jnp.where(positive[:, None], apart, 0))
        return jnp.sum(hits), boxes, jnp.sum(positive | negative).astype(scores.dtype)

    hits, boxes, count = jax.vmap(of_image)(scores, deltas, objects, keys)
    return {"loss_objectness": (hits, count), "loss_rpn_box_reg": (boxes, count)}


def drawn_anchors(
    model: Any, anchors: Float[Array, "P 4"], objects: Objects, key: Key[Array, ""]
) -> tuple[Int[Array, " P"], Bool[Array, " P"], Bool[Array, " P"]]:
    """For an image: the object of each anchor, the anchors drawn that are to find it, and those that are background."""
    overlaps = iou(objects.boxes, anchors.astype(objects.boxes.dtype))
    found = match(overlaps, objects.real, model.rpn_bg_iou_thresh, model.rpn_fg_iou_thresh, keep_best=True)
    count, share = model.rpn_batch_size_per_image, model.rpn_positive_fraction
    return found, *sample(key, found >= 0, found == NOTHING, count, share)
