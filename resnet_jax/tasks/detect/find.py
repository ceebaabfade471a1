"""From images on a canvas to the objects in them: proposals, boxes, classes and masks, as torchvision finds them.

Everything has a fixed shape. What is no proposal or no object is padding, and it is said so.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from resnet_jax.models.detect.network import Detector
from resnet_jax.models.detect.one_stage import Fcos, OneStage, Yolof
from resnet_jax.models.detect.two_stage import BOX_GRID, MASK_GRID, TwoStage
from resnet_jax.tasks.detect.anchors import Size, on_map, shapes
from resnet_jax.tasks.detect.boxes import clip, decode, decode_sides
from resnet_jax.tasks.detect.nms import best, nms
from resnet_jax.tasks.detect.roi_align import align_on_levels

LEAST_PROPOSAL, LEAST_BOX = 1e-3, 1e-2
"""Sides in pixels below which torchvision drops a proposal, and a box of the second stage."""

Outputs = dict[str, tuple[Float[Array, "N H W C"], ...]]
Sizes = Int[Array, "N 2"]


class Proposals(NamedTuple):
    """Boxes that may hold an object, the likeliest first, and whether a row is one of them."""

    boxes: Float[Array, "N P 4"]
    scores: Float[Array, "N P"]
    real: Bool[Array, "N P"]


class Found(NamedTuple):
    """Objects, the surest first.

    Attributes:
      boxes: on the canvas.
      labels: -1 = there is none.
      masks: how sure each cell of a box's grid is part of the object, if the network has masks.
    """

    boxes: Float[Array, "N D 4"]
    scores: Float[Array, "N D"]
    labels: Int[Array, "N D"]
    masks: Float[Array, "N D M M"] | None = None


def level_sizes(model: Detector, canvas: Size) -> list[Size]:
    """Height and width of the map of each level."""
    height, width = canvas
    return [(-(-height // stride), -(-width // stride)) for stride in model.strides]


def anchors_of_levels(model: Detector, canvas: Size) -> list[Float[np.ndarray, "P 4"]]:
    """The anchors of each level of a canvas, in the order of the network's outputs."""
    return [
        on_map(shapes(sizes, model.anchor_ratios), size, canvas)
        for sizes, size in zip(model.anchors, level_sizes(model, canvas), strict=True)
    ]


def anchors_of(model: Detector, canvas: Size) -> Float[np.ndarray, "P 4"]:
    """The anchors of a canvas, those of all levels one after the other, the finest level first."""
    return np.concatenate(anchors_of_levels(model, canvas))


def flat(levels: tuple[Float[Array, "N H W C"], ...], numbers: int) -> list[Float[Array, "N P numbers"]]:
    """What a network says of each level, by anchors in the order of `anchors_of`; each has so many numbers."""
    return [level.reshape(len(level), -1, numbers) for level in levels]


def make_find(model: Detector) -> Callable[[PyTree[Array], Float[Array, "N H W C"], Sizes], Found]:
    """A function of variables, images and their sizes that gives the objects; to be compiled, once for each canvas.

    The images are normalised, and beside them, up to the canvas, there are zeros. `sizes` are real heights and widths.
    """

    def find(variables: PyTree[Array], images: Float[Array, "N H W C"], sizes: Sizes) -> Found:
        out = model.apply(variables, images, train=False)
        _, height, width, _ = images.shape
        if isinstance(model, TwoStage):
            return second_stage(model, variables, out["maps"], propose(model, out, sizes, (height, width)), sizes)
        assert isinstance(model, OneStage)
        return one_stage(model, out, sizes, (height, width))

    return find


def propose(model: TwoStage, out: Outputs, sizes: Sizes, canvas: Size, *, train: bool = False) -> Proposals:
    """The boxes that the first stage proposes (`RegionProposalNetwork.filter_proposals`). No gradient passes through.

    Args:
      out: what the network said of the images.
      train: as many as training looks at.
    """
    before, after = (
        (model.rpn_pre_nms_top_n_train, model.rpn_post_nms_top_n_train)
        if train
        else (model.rpn_pre_nms_top_n_test, model.rpn_post_nms_top_n_test)
    )

    def of_level(
        scores: Float[Array, " P"], deltas: Float[Array, "P 4"], size: Int[Array, " 2"], anchors: Float[Array, "P 4"]
    ) -> tuple[Array, Array, Array]:
        logits, at = lax.top_k(scores, min(before, len(scores)))
        boxes = _clipped(decode(deltas[at], anchors[at]), size)
        sure = jax.nn.sigmoid(logits)
        real = _has_sides(boxes, LEAST_PROPOSAL) & (sure >= model.rpn_score_thresh)
        return boxes, sure, nms(boxes, sure, model.rpn_nms_thresh, real=real)

    scores, deltas = lax.stop_gradient((flat(out["scores"], 1), flat(out["deltas"], 4)))
    levels = [
        jax.vmap(of_level, in_axes=(0, 0, 0, None))(score[..., 0], delta, sizes, jnp.asarray(anchors, delta.dtype))
        for score, delta, anchors in zip(scores, deltas, anchors_of_levels(model, canvas), strict=True)
    ]
    boxes, sure, kept = (jnp.concatenate(parts, axis=1) for parts in zip(*levels, strict=True))
    ranked, at = lax.top_k(jnp.where(kept, sure, -1), min(after, kept.shape[1]))
    real = ranked >= 0
    return Proposals(
        jnp.where(real[..., None], jnp.take_along_axis(boxes, at[..., None], axis=1), 0),
        jnp.where(real, ranked, 0),
        real,
    )


def pool(
    model: TwoStage, maps: tuple[Float[Array, "N H W C"], ...], boxes: Float[Array, "N P 4"], side: int
) -> Float[Array, "N*P S S C"]:
    """The grids of boxes, each on the map that goes with its size (`MultiScaleRoIAlign`)."""
    count = len(model.stages)
    scales = [1 / stride for stride in model.strides[:count]]
    low, high = (int(np.log2(model.strides[at])) for at in (0, count - 1))
    rois = boxes.reshape(-1, 4)
    long = jnp.sqrt((rois[:, 2] - rois[:, 0]) * (rois[:, 3] - rois[:, 1]))
    levels = jnp.floor(model.canonical_level + jnp.log2(long / model.canonical_scale) + 1e-6)
    images = jnp.repeat(jnp.arange(len(boxes)), boxes.shape[1])
    own = jnp.clip(levels, low, high).astype(jnp.int32) - low
    return align_on_levels(maps[:count], rois, images, own, side, scales=scales)


def second_stage(
    model: TwoStage,
    variables: PyTree[Array],
    maps: tuple[Float[Array, "N H W C"], ...],
    proposals: Proposals,
    sizes: Sizes,
) -> Found:
    """What the proposals hold (`RoIHeads`)."""
    shape = proposals.boxes.shape[:2]
    pooled = pool(model, maps, proposals.boxes, BOX_GRID)
    logits, deltas = model.apply(variables, pooled, train=False, method="boxes")
    logits, deltas = logits.reshape(*shape, -1), deltas.reshape(*shape, -1, 4)

    def of_image(logits: Array, deltas: Array, proposal: Array, real: Array, size: Array) -> Found:
        boxes = _clipped(decode(deltas, proposal[:, None], model.bbox_reg_weights), size)[:, 1:].reshape(-1, 4)
        scores = jax.nn.softmax(logits)[:, 1:].reshape(-1)
        labels = jnp.tile(jnp.arange(1, model.num_classes), len(proposal))
        real = jnp.repeat(real, model.num_classes - 1) & (scores > model.box_score_thresh)
        real &= _has_sides(boxes, LEAST_BOX)
        return _best(boxes, scores, labels, real, model.box_nms_thresh, model.box_detections_per_img)

    found = jax.vmap(of_image)(logits, deltas, proposals.boxes, proposals.real, sizes)
    return found._replace(masks=_masks(model, variables, maps, found)) if model.mask else found


def _masks(
    model: TwoStage, variables: PyTree[Array], maps: tuple[Float[Array, "N H W C"], ...], found: Found
) -> Float[Array, "N D M M"]:
    pooled, labels = pool(model, maps, found.boxes, MASK_GRID), jnp.maximum(found.labels, 0).reshape(-1)
    features = model.apply(variables, pooled, train=False, method="mask_features")
    logits = model.apply(variables, features, labels, train=False, method="masks")
    masks = jax.nn.sigmoid(logits).reshape(*found.labels.shape, *logits.shape[1:])
    return jnp.where((found.labels >= 0)[..., None, None], masks, 0)


def one_stage(model: OneStage, out: Outputs, sizes: Sizes, canvas: Size) -> Found:
    """What the anchors hold (`postprocess_detections` of torchvision's `RetinaNet` and `FCOS`)."""
    classes = model.num_classes
    to_boxes = boxes_from(model)

    def of_level(
        logits: Float[Array, "P K"], deltas: Float[Array, "P 4"], centred: Any, size: Array, anchors: Array
    ) -> tuple[Array, Array, Array]:
        def sure(of: Float[Array, "Q K"], at: Any) -> Float[Array, "Q K"]:
            scores = jax.nn.sigmoid(of)
            return scores if centred is None else jnp.sqrt(scores * jax.nn.sigmoid(centred[at]))

        # The best pairs of anchor and class are among the anchors whose best class is best.
        count = model.topk_candidates
        _, at = lax.top_k(sure(logits.max(axis=1, keepdims=True), slice(None))[:, 0], min(count, len(logits)))
        at = jnp.sort(at)
        scores, pair = lax.top_k(sure(logits[at], at).reshape(-1), min(count, len(at) * classes))
        own, labels = at[pair // classes], pair % classes
        return _clipped(to_boxes(deltas[own], anchors[own]), size), scores, labels

    centred = flat(out["centred"], 1) if isinstance(model, Fcos) else [None] * len(model.strides)
    scores, deltas, anchors = flat(out["scores"], classes), flat(out["deltas"], 4), anchors_of_levels(model, canvas)
    levels = [
        jax.vmap(of_level, in_axes=(0, 0, 0, 0, None))(score, delta, middle, sizes, jnp.asarray(anchor, delta.dtype))
        for score, delta, middle, anchor in zip(scores, deltas, centred, anchors, strict=True)
    ]

    def of_image(boxes: Array, scores: Array, labels: Array) -> Found:
        return _best(boxes, scores, labels, scores > model.score_thresh, model.nms_thresh, model.detections_per_img)

    return jax.vmap(of_image)(*(jnp.concatenate(parts, axis=1) for parts in zip(*levels, strict=True)))


def boxes_from(model: OneStage) -> Callable[[Float[Array, "*B 4"], Float[Array, "*B 4"]], Float[Array, "*B 4"]]:
    """How a network's numbers and its anchors give boxes."""
    if isinstance(model, Fcos):
        return decode_sides
    return partial(decode, most=model.center_clamp) if isinstance(model, Yolof) else decode


def _best(boxes: Array, scores: Array, labels: Array, real: Array, threshold: float, count: int) -> Found:
    """The best boxes of an image that are left when those that overlap a better one of their class are gone."""
    at, there = best(boxes, scores, labels, real, threshold, count)
    return Found(
        jnp.where(there[:, None], boxes[at], 0),
        jnp.where(there, scores[at], 0),
        jnp.where(there, labels[at], -1).astype(jnp.int32),
    )


def _clipped(boxes: Float[Array, "*B 4"], size: Int[Array, " 2"]) -> Float[Array, "*B 4"]:
    height, width = size.astype(boxes.dtype)
    return clip(boxes, height, width)


def _has_sides(boxes: Float[Array, "*B 4"], least: float) -> Bool[Array, "*B"]:
    return ((boxes[..., 2:] - boxes[..., :2]) >= least).all(axis=-1)
