"""The loss of a detector: of what each of its heads says of a part of a batch."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from resnet_jax.models.detect.one_stage import Fcos, RetinaNet
from resnet_jax.models.detect.two_stage import BOX_GRID, MASK_GRID, TwoStage
from resnet_jax.tasks.detect.anchors import Size
from resnet_jax.tasks.detect.find import anchors_of_levels, pool, propose
from resnet_jax.tasks.detect.losses import Objects, Sums
from resnet_jax.tasks.detect.mask_targets import align_masks
from resnet_jax.tasks.detect.one_stage import fcos_losses, retinanet_losses, yolof_losses
from resnet_jax.tasks.detect.roi_heads import Rois, box_losses, draw_rois, mask_losses, rois_with_masks
from resnet_jax.tasks.detect.rpn import rpn_losses
from resnet_jax.tasks.task import Prepare
from resnet_jax.training.accumulate import Batch
from resnet_jax.training.step import Loss, Losses

DROPPED, DRAWN = 1, 2
"""Numbers of the keys of a step; `prepare` draws from the key itself."""
ANCHORS, ROIS = 0, 1
"""Numbers of the keys of an image."""
Keys = Callable[[int], Key[Array, " N"]]
"""From such a number to a key for each image."""


class Applied:
    """A network as training applies it, several times one after the other. The running statistics go along."""

    def __init__(self, net: Any, params: PyTree[Array], batch_stats: PyTree[Array], key: Key[Array, ""]) -> None:
        self._net, self._params, self._key = net, params, key
        self.batch_stats = batch_stats

    def __call__(self, *arguments: Array, **options: Any) -> Any:
        out, updates = self._net.apply(
            {"params": self._params, "batch_stats": self.batch_stats},
            *arguments,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.fold_in(self._key, DROPPED)},
            **options,
        )
        self.batch_stats = updates.get("batch_stats", {})
        return out


def make_loss(model: Any, prepare: Prepare) -> Loss:
    """Returns the loss of a part of a batch: torchvision's, under its names.

    Args:
      model: a network of `models.detect`.
      prepare: gives `image`, normalised, with zeros beside it.
    """
    of_outputs = losses_of(model)

    def loss(
        params: PyTree[Array], batch_stats: PyTree[Array], batch: Batch, key: Key[Array, ""], axis: str | None
    ) -> Losses:
        seen = prepare(key, batch)
        net = Applied(model.on_axis(axis) if axis else model, params, batch_stats, key)
        out = net(seen["image"], positions=seen["position"])
        several = of_outputs(net, out, seen, partial(keys_of, key, seen["position"]))
        metrics = {"padding": padding_of(seen)}
        return Losses(jnp.zeros(len(seen["image"])), metrics, net.batch_stats, several=several)

    return loss


def padding_of(seen: Batch) -> Float[Array, " N"]:
    """The share of the pixels of each canvas that are beside its image."""
    height, width = canvas_of(seen)
    # In whole numbers, so that no padding is exactly 0.
    return (height * width - jnp.prod(seen["size"], axis=-1)) / (height * width)


def canvas_of(seen: Batch) -> Size:
    """Height and width of the canvases of a batch."""
    _, height, width, _ = seen["image"].shape
    return height, width


def keys_of(key: Key[Array, ""], positions: Int[Array, " N"], number: int) -> Key[Array, " N"]:
    """A key for each image of a step, by its place in the whole batch.

    Args:
      number: what is drawn, `ANCHORS` or `ROIS`.
    """
    of_step = jax.random.fold_in(key, DRAWN)
    return jax.vmap(lambda place: jax.random.fold_in(jax.random.fold_in(of_step, place), number))(positions)


def losses_of(model: Any) -> Callable[[Applied, dict[str, Any], Batch, Keys], Sums]:
    """The function of the network, of its outputs, of the batch and of keys that gives the losses."""

    def of_outputs(net: Applied, out: dict[str, Any], seen: Batch, keys: Keys) -> Sums:
        levels = anchors_of_levels(model, canvas_of(seen))
        anchors = jnp.asarray(np.concatenate(levels), out["deltas"][0].dtype)
        objects = Objects(seen["boxes"], seen["classes"])
        if isinstance(model, TwoStage):
            first = rpn_losses(model, out, anchors, objects, keys(ANCHORS))
            return first | _second_stage(model, net, out, seen, objects, keys(ROIS))
        if isinstance(model, RetinaNet):
            return retinanet_losses(model, out, anchors, objects)
        if isinstance(model, Fcos):
            return fcos_losses(model, out, anchors, [len(level) for level in levels], objects)
        return yolof_losses(model, out, anchors, objects)

    return of_outputs


def _second_stage(
    model: TwoStage, net: Applied, out: dict[str, Any], seen: Batch, objects: Objects, keys: Key[Array, " N"]
) -> Sums:
    canvas = canvas_of(seen)
    proposals = propose(model, out, seen["size"], canvas, train=True)
    rois = draw_rois(model, proposals.boxes, proposals.real, objects, keys)
    pooled = pool(model, out["maps"], rois.boxes, BOX_GRID)
    logits, deltas = net(pooled, method="boxes", per_image=rois.labels.shape[1])
    losses = box_losses(model, logits, deltas, rois, objects)
    if not model.mask:
        return losses
    kept = rois_with_masks(model, rois)
    grids = pool(model, out["maps"], kept.boxes, MASK_GRID)
    features = lambda grids: net(grids, method="mask_features", per_image=kept.labels.shape[1])
    masks = lambda features, labels: net(features, labels, method="masks")
    if model.mask_normed:  # the norms take statistics of all proposals
        grids, head = features(grids), masks
    else:
        head = lambda grids, labels: masks(features(grids), labels)
    cut = partial(align_masks, grid=2 * MASK_GRID, most_samples=-(-max(canvas) // (2 * MASK_GRID)))
    return losses | mask_losses(head, cut, grids, _windows(kept, objects, seen), kept)


def _windows(kept: Rois, objects: Objects, seen: Batch) -> tuple[Array, ...]:
    """Of each proposal, what `align_masks` takes: bitmap and box of its object, the proposal, the size of the image."""
    rows = jnp.arange(len(kept.objects))[:, None]
    flat = lambda x: x.reshape(-1, *x.shape[2:])
    sizes = jnp.repeat(seen["size"], kept.objects.shape[1], axis=0)
    bitmaps, boxes = flat(seen["instances"][rows, kept.objects]), flat(objects.boxes[rows, kept.objects])
    return bitmaps, boxes, flat(kept.boxes), sizes
