"""Boxes (x1, y1, x2, y2) in pixels: areas, overlaps, and how a box is coded relative to another.

Everything here is `torchvision.ops.boxes` and `torchvision.models.detection._utils.BoxCoder`, on arrays of fixed sizes.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

LARGEST_SCALE = math.log(1000 / 16)
"""A coded box is at most 62.5 times as wide or high as its reference, so that the exponential stays finite."""

Boxes = Float[Array, "*B 4"]


def area(boxes: Boxes) -> Float[Array, "*B"]:
    """Square pixels."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _shared(one: Float[Array, "*B N 4"], other: Float[Array, "*B M 4"]) -> Float[Array, "*B N M"]:
    """The area that each box of one set shares with each of another."""
    least = jnp.maximum(one[..., :, None, :2], other[..., None, :, :2])
    most = jnp.minimum(one[..., :, None, 2:], other[..., None, :, 2:])
    sides = jnp.maximum(most - least, 0)
    return sides[..., 0] * sides[..., 1]


def iou(one: Float[Array, "*B N 4"], other: Float[Array, "*B M 4"]) -> Float[Array, "*B N M"]:
    """Intersection over union of each box of one set with each of another; nan where both have no area."""
    shared = _shared(one, other)
    return shared / (area(one)[..., :, None] + area(other)[..., None, :] - shared)


def giou_loss(one: Boxes, other: Boxes, eps: float = 1e-7) -> Float[Array, "*B"]:
    """1 - generalised IoU of each box with its partner (Rezatofighi et al. 2019, arXiv:1902.09630), as
    `torchvision.ops.generalized_box_iou_loss`, which adds `eps` to what it divides by."""
    least, most = jnp.maximum(one[..., :2], other[..., :2]), jnp.minimum(one[..., 2:], other[..., 2:])
    sides = jnp.where((most > least).all(-1, keepdims=True), most - least, 0)
    shared = sides[..., 0] * sides[..., 1]
    union = area(one) + area(other) - shared
    hull = jnp.concatenate([jnp.minimum(one[..., :2], other[..., :2]), jnp.maximum(one[..., 2:], other[..., 2:])], -1)
    whole = area(hull)
    return 1 - shared / (union + eps) + (whole - union) / (whole + eps)


def clip(boxes: Boxes, height: Array | float, width: Array | float) -> Boxes:
    """Boxes cut off at the border of their image."""
    return jnp.minimum(jnp.maximum(boxes, 0), _row(jnp.stack([width, height, width, height]), boxes))


def encode(boxes: Boxes, references: Boxes, weights: Sequence[float] = (1, 1, 1, 1)) -> Boxes:
    """(dx, dy, dw, dh): how a box lies to its reference, such as an anchor (Girshick et al. 2014, appendix C).

    Args:
      weights: factors of the four numbers, so that they have similar sizes.
    """
    (middle, side), (own_middle, own_side) = map(_middle_and_side, (boxes, references))
    moved = (middle - own_middle) / own_side
    return jnp.concatenate([moved, jnp.log(side / own_side)], -1) * _row(weights, boxes)


def decode(
    deltas: Boxes, references: Boxes, weights: Sequence[float] = (1, 1, 1, 1), most: float | None = None
) -> Boxes:
    """The boxes that lie so to their references: the inverse of `encode`, up to `LARGEST_SCALE`.

    Args:
      most: pixels by which a middle moves at most, along each axis; None = any number.
    """
    deltas = deltas / _row(weights, deltas)
    middle, side = _middle_and_side(references)
    move = deltas[..., :2] * side
    middle = (move if most is None else jnp.clip(move, -most, most)) + middle
    half = jnp.exp(jnp.minimum(deltas[..., 2:], LARGEST_SCALE)) * side / 2
    return jnp.concatenate([middle - half, middle + half], -1)


def encode_sides(boxes: Boxes, references: Boxes) -> Boxes:
    """How far the left, upper, right and lower side of a box are from the middle of its reference, in sides of the
    reference: FCOS's code (Tian et al. 2019, arXiv:1904.01355, equation 1), torchvision's `BoxLinearCoder`."""
    middle, side = _middle_and_side(references)
    return jnp.concatenate([middle - boxes[..., :2], boxes[..., 2:] - middle], -1) / jnp.concatenate([side, side], -1)


def decode_sides(deltas: Boxes, references: Boxes) -> Boxes:
    """The boxes whose sides are so far from the middle of their references."""
    middle, side = _middle_and_side(references)
    return jnp.concatenate([middle - deltas[..., :2] * side, middle + deltas[..., 2:] * side], -1)


def _row(numbers: Array | Sequence[float], like: Boxes) -> Float[Array, "*O 4"]:
    """Four numbers that hold for all boxes."""
    return jnp.asarray(numbers, like.dtype).reshape(*(1,) * (like.ndim - 1), 4)


def _middle_and_side(boxes: Boxes) -> tuple[Float[Array, "*B 2"], Float[Array, "*B 2"]]:
    side = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + side / 2, side
