"""What is counted in a split: pixels by true and predicted class."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from resnet_jax.logs.shown import Shown
from resnet_jax.tasks.segment.losses import Masks, cross_entropy, valid
from resnet_jax.tasks.segment.report import results
from resnet_jax.tasks.task import Prepare
from resnet_jax.training.accumulate import Batch
from resnet_jax.training.evaluate import Measure, Measured, Report, Rows, Sums

BEST = "miou"
NAMES = {
    "miou": Shown("mIoU", "{:.2%}", "mean intersection over union"),
    "pixel_accuracy": Shown("pixels right", "{:.2%}", "share of pixels that are right"),
}
Score = Callable[[PyTree[Array], Float[Array, "N H W C"]], Float[Array, "N H W K"]]
"""Logits, or logarithms of probabilities, of normalised images."""


def make_measure(score: Score, prepare: Prepare, classes: int) -> Measure:
    """Returns the function that counts the pixels of a batch by true and predicted class."""

    def measure(variables: PyTree[Array], batch: Batch, real: Bool[Array, " N"]) -> Measured:
        logits = score(variables, prepare(None, batch)["image"])
        masks = jnp.where(real[:, None, None], batch["mask"].astype(jnp.int32), -1)
        loss, pixels = cross_entropy(logits, masks)
        counted = confusion(masks, jnp.argmax(logits, axis=-1), classes)
        return Measured({"loss": jnp.sum(loss), "pixels": jnp.sum(pixels), "confusion": counted}, {})

    return measure


def confusion(masks: Masks, predicted: Int[Array, "N H W"], classes: int) -> Int[Array, "K K"]:
    """Pixels by true class (row) and predicted class (column). Pixels without a class are left out."""

    def of_image(mask: Int[Array, "H W"], said: Int[Array, "H W"]) -> Int[Array, "K K"]:
        # A product of one-hot rows: a scatter would be slow on a TPU. float32 counts the pixels of one image exactly,
        # but not those of a large batch.
        rows = jnp.where(valid(mask, classes)[..., None], jax.nn.one_hot(mask, classes), 0).reshape(-1, classes)
        columns = jax.nn.one_hot(said, classes).reshape(-1, classes)
        return jnp.matmul(rows.T, columns, precision="highest").astype(jnp.int32)

    return jnp.sum(jax.lax.map(lambda pair: of_image(*pair), (masks, predicted)), axis=0)


def make_report(class_names: Callable[[], Sequence[str]]) -> Report:
    """Returns the function from the counts of a split to its results.

    Args:
      class_names: is called when there are results.
    """

    def report(sums: Sums, rows: Rows) -> dict[str, float]:
        loss = float(sums["loss"]) / max(float(sums["pixels"]), 1.0)
        return results(np.round(sums["confusion"]).astype(np.int64), loss, class_names())

    return report


def make_score(model: Any, *, flip: bool = False, window: int = 0) -> Score:
    """Returns what evaluation and prediction take for the scores of the classes of every pixel.

    Args:
      flip: the mean of the probabilities of the image and of its mirror image.
      window: look at squares of this many pixels. Neighbours overlap by a third; where they do, the probabilities are
        averaged. 0 = look at the whole image at once.
    """

    def whole(variables: PyTree[Array], images: Float[Array, "N H W C"]) -> Float[Array, "N H W K"]:
        return model.apply(variables, images, train=False)["out"]

    def mirrored(variables: PyTree[Array], images: Float[Array, "N H W C"]) -> Float[Array, "N H W K"]:
        both = (whole(variables, images), whole(variables, images[:, :, ::-1])[:, :, ::-1])
        return jnp.log(sum(map(jax.nn.softmax, both)) / 2)

    look = mirrored if flip else whole

    def windows(variables: PyTree[Array], images: Float[Array, "N H W C"]) -> Float[Array, "N H W K"]:
        height, width = images.shape[1:3]
        total: Any = 0.0
        seen = np.zeros((height, width, 1), np.float32)
        for top in starts(height, window):
            for left in starts(width, window):
                box = np.s_[:, top : top + window, left : left + window]
                shares = jax.nn.softmax(look(variables, images[box]))
                below, right = height - top - shares.shape[1], width - left - shares.shape[2]
                total = total + jnp.pad(shares, ((0, 0), (top, below), (left, right), (0, 0)))
                seen[box[1:]] += 1
        return jnp.log(total / seen[None])

    return windows if window else look


def starts(side: int, window: int) -> list[int]:
    """Where windows begin that cover a side: as few as overlap by at least a third, spread evenly."""
    if side <= window:
        return [0]
    number = -(-(side - window) // max(1, window * 2 // 3)) + 1
    return [round(i * (side - window) / (number - 1)) for i in range(number)]
