"""What is kept of the detections of every image, and how numbers of a split are shown."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from resnet_jax.logs.shown import Names, Shown
from resnet_jax.tasks.task import Prepare
from resnet_jax.training.accumulate import Batch
from resnet_jax.training.evaluate import Measure, Measured, real_sums

Find = Callable[[PyTree[Array], Float[Array, "N H W C"], Int[Array, "N 2"]], Any]
"""`(variables, normalised images on a canvas, height and width of what is no padding) -> boxes, scores, labels, masks`,
as `find.Found`."""

BOX, MASK = "box", "mask"


def names_of(masks: bool) -> Names:
    """The numbers of a split that people are shown.

    Args:
      masks: whether the network gives masks.
    """
    shown: dict[str, Shown] = {}
    for kind, several in ((MASK, "masks"), (BOX, "boxes")) if masks else ((BOX, "boxes"),):
        shown[f"{kind}_ap"] = Shown(f"{kind} AP", "{:.2%}", f"average precision of {several} (COCO's)")
        shown[f"{kind}_ap50"] = Shown(f"{kind} AP50", "{:.2%}", f"average precision of {several} at IoU 0.5")
    return {**shown, "padding": Shown("padding", "{:.1%}", "share of the pixels that are beside the images")}


def best_of(masks: bool) -> str:
    """The number by which checkpoints are compared."""
    return f"{MASK if masks else BOX}_ap"


def make_measure(find: Find, prepare: Prepare) -> Measure:
    """Returns the function that keeps the detections of a batch: `boxes` on the canvas, `scores`, `labels` (-1 = none),
    and `masks` in float16 where there are any; and of the image `index`, `size` and `original`. It counts the pixels of
    the images and of their canvases."""

    def measure(variables: PyTree[Array], batch: Batch, real: Bool[Array, " N"]) -> Measured:
        seen = prepare(None, batch)
        found = find(variables, seen["image"], seen["size"])
        rows = {name: batch[name] for name in ("index", "size", "original")}
        rows |= {"boxes": found.boxes, "scores": found.scores, "labels": found.labels}
        if found.masks is not None:
            rows["masks"] = found.masks.astype(jnp.float16)
        area = jnp.prod(seen["size"], axis=-1).astype(jnp.float32)
        whole = jnp.full_like(area, seen["image"].shape[1] * seen["image"].shape[2])
        return Measured(real_sums({"pixels": area, "canvas": whole}, real), rows)

    return measure
