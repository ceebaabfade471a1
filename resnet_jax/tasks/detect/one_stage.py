"""The losses of detectors that name classes and boxes at each place at once: RetinaNet, FCOS and YOLOF."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from resnet_jax.tasks.detect.boxes import decode, decode_sides, encode, giou_loss, iou
from resnet_jax.tasks.detect.losses import (
    Objects,
    Sums,
    binary_cross_entropy,
    flat,
    focal_of_classes,
    of_objects,
)
from resnet_jax.tasks.detect.matching import BETWEEN, match
from resnet_jax.tasks.detect.places import centred_at, match_places
from resnet_jax.tasks.detect.uniform import match_uniformly

Out = dict[str, Any]


def retinanet_losses(model: Any, out: Out, anchors: Float[Array, "P 4"], objects: Objects) -> Sums:
    """`classification` and `bbox_regression` of each image, which are divided by the image's own anchors that are to
    find an object: `torchvision.models.detection.RetinaNet`. The count of an image is 1."""
    scores, deltas = flat(out["scores"], model.num_classes), flat(out["deltas"], 4)
    anchors = anchors.astype(deltas.dtype)

    def of_image(scores: Array, deltas: Array, objects: Objects) -> tuple[Array, Array]:
        overlaps = iou(objects.boxes, anchors.astype(objects.boxes.dtype))
        found = match(overlaps, objects.real, model.bg_iou_thresh, model.fg_iou_thresh, keep_best=True)
        positive = found >= 0
        classes = jnp.where(positive, of_objects(objects.classes, found), 0)
        hits = focal_of_classes(scores, classes, found != BETWEEN)
        # Anchors without an object are compared with themselves: the logarithm of a side of 0 would be infinite.
        own = jnp.where(positive[:, None], of_objects(objects.boxes, found), anchors).astype(deltas.dtype)
        if model.box_loss == "giou":
            apart = giou_loss(decode(deltas, anchors), own)
        else:
            apart = jnp.sum(jnp.abs(deltas - encode(own, anchors)), axis=1)
        number = jnp.maximum(jnp.sum(positive), 1)
        return hits / number, jnp.sum(jnp.where(positive, apart, 0)) / number

    hits, boxes = jax.vmap(of_image)(scores, deltas, objects)
    return {"classification": (hits, jnp.ones_like(hits)), "bbox_regression": (boxes, jnp.ones_like(boxes))}


def fcos_losses(model: Any, out: Out, anchors: Float[Array, "P 4"], levels: Sequence[int], objects: Objects) -> Sums:
    """`classification`, `bbox_regression` and `bbox_ctrness` of each image, to be divided by the places that are to
    find an object: `torchvision.models.detection.FCOS`.

    Args:
      levels: how many anchors each level has.
    """
    scores, deltas = flat(out["scores"], model.num_classes), flat(out["deltas"], 4)
    centred = flat(out["centred"], 1)[..., 0]
    anchors = anchors.astype(deltas.dtype)

    def of_image(scores: Array, deltas: Array, centred: Array, objects: Objects) -> tuple[Array, ...]:
        found = match_places(anchors, levels, objects.boxes, objects.real, model.center_sampling_radius)
        positive = found >= 0
        classes = jnp.where(positive, of_objects(objects.classes, found), 0)
        own = jnp.where(positive[:, None], of_objects(objects.boxes, found), anchors).astype(deltas.dtype)
        hits = focal_of_classes(scores, classes, jnp.ones_like(positive))
        apart = jnp.where(positive, giou_loss(decode_sides(deltas, anchors), own), 0)
        middle = jnp.where(positive, binary_cross_entropy(centred, centred_at(anchors, own)), 0)
        return hits, jnp.sum(apart), jnp.sum(middle), jnp.sum(positive).astype(deltas.dtype)

    *losses, count = jax.vmap(of_image)(scores, deltas, centred, objects)
    names = ("classification", "bbox_regression", "bbox_ctrness")
    return {name: (loss, count) for name, loss in zip(names, losses, strict=True)}


def yolof_losses(model: Any, out: Out, anchors: Float[Array, "P 4"], objects: Objects) -> Sums:
    """`classification` and `bbox_regression` of each image, to be divided by the anchors that are to find an object
    (Chen et al. 2021, arXiv:2103.09460, section 4.2, and the authors' `yolof/modeling/yolof.py`).

    An anchor may be chosen for several objects: its box is compared with each of them, and its class is that of the
    last. Anchors whose box overlaps an object well without being chosen for it count nowhere.
    """
    scores, deltas = flat(out["scores"], model.num_classes), flat(out["deltas"], 4)
    anchors = anchors.astype(deltas.dtype)

    def of_image(scores: Array, deltas: Array, objects: Objects) -> tuple[Array, Array, Array]:
        said = decode(deltas, anchors, most=model.center_clamp)
        boxes = objects.boxes.astype(deltas.dtype)
        chosen = match_uniformly(jax.lax.stop_gradient(said), anchors, boxes, objects.real, model.match_times)
        near = jnp.max(jnp.where(objects.real[None], iou(said, boxes), 0), axis=1)
        # Of an anchor without a pair the background is to be found, unless it overlaps an object well.
        classes = jnp.where(near > model.neg_ignore_thresh, -1, 0)
        overlaps = iou(anchors, boxes)[chosen.anchors, chosen.objects]
        used = chosen.real & (overlaps >= model.pos_ignore_thresh)
        wanted = jnp.where(used, objects.classes[chosen.objects], -1)
        classes = jnp.where(chosen.last >= 0, wanted[jnp.maximum(chosen.last, 0)], classes)
        hits = focal_of_classes(scores, classes, classes >= 0)
        apart = giou_loss(said[chosen.anchors], boxes[chosen.objects])
        number = jnp.sum(classes > 0).astype(deltas.dtype)
        return hits, jnp.sum(jnp.where(used, apart, 0)), number

    hits, boxes, count = jax.vmap(of_image)(scores, deltas, objects)
    return {"classification": (hits, count), "bbox_regression": (boxes, count)}
