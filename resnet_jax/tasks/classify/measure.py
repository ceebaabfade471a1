"""What is counted in a split: hits and losses, and on request which classes are confused."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from resnet_jax.logs.shown import Shown
from resnet_jax.tasks.classify.look import Look
from resnet_jax.tasks.classify.report import CALIBRATION_BINS, EvalReport
from resnet_jax.tasks.task import Prepare
from resnet_jax.training.accumulate import Batch
from resnet_jax.training.evaluate import Measure, Measured, Rows, Sums, real_sums
from resnet_jax.training.losses import cross_entropy, in_top_k, one_hot

MEANS = ("loss", "top1", "top5")
BEST = "top1"
NAMES = {"top1": Shown("top-1", "{:.2%}", "top-1 accuracy"), "top5": Shown("top-5", "{:.2%}", "top-5 accuracy")}


def make_measure(look: Look, prepare: Prepare, *, in_detail: bool = False) -> Measure:
    """Returns the function that counts hits and adds up losses.

    Args:
      in_detail: count also `confusion` and `calibration`, see `EvalReport`. The matrix of K x K counts is summed over
        the devices for every batch, so evaluations in training do not count it.
    """

    def measure(variables: PyTree[Array], batch: Batch, real: Bool[Array, " N"]) -> Measured:
        logits = look(variables, prepare(None, batch)["image"])
        return Measured(count(logits, batch["label"], real, in_detail=in_detail), {})

    return measure


def count(
    logits: Float[Array, "N K"], labels: Int[Array, " N"], real: Bool[Array, " N"], *, in_detail: bool
) -> dict[str, Array]:
    """The sums over the real images of a batch that `report` needs, or in detail `report_in_detail`."""
    details = _count_details(logits, labels, real) if in_detail else {}
    return {**_count_hits(logits, labels, real), **details}


def report(sums: Sums, rows: Rows) -> dict[str, float]:
    """`{"loss", "top1", "top5"}`: means over all images, accuracies as fractions."""
    return {name: float(sums[name]) / int(sums["count"]) for name in MEANS}


def report_in_detail(sums: Sums, rows: Rows) -> EvalReport:
    confusion = np.round(sums["confusion"]).astype(np.int64)
    count = int(sums["count"])
    return EvalReport(confusion=confusion, calibration=sums["calibration"], count=count, **report(sums, rows))


def _count_hits(
    logits: Float[Array, "N K"], labels: Int[Array, " N"], real: Bool[Array, " N"]
) -> dict[str, Float[Array, ""]]:
    per_image = {
        "loss": cross_entropy(logits, one_hot(labels, logits.shape[-1])),
        "top1": in_top_k(logits, labels, 1),
        "top5": in_top_k(logits, labels, 5),
    }
    return real_sums(per_image, real)


def _count_details(
    logits: Float[Array, "N K"], labels: Int[Array, " N"], real: Bool[Array, " N"]
) -> dict[str, Float[Array, "A B"]]:
    """`confusion` (K, K): images by true and predicted class. `calibration` (3, bins): see `EvalReport`."""
    classes = logits.shape[-1]
    predicted = jnp.argmax(logits, axis=-1)
    # Products with one-hot rows, not scatters: each device counts its share, and one all-reduce adds the counts.
    confusion = jnp.where(real[:, None], one_hot(labels, classes), 0).T @ one_hot(predicted, classes)
    confidence = jnp.max(jax.nn.softmax(logits), axis=-1)
    bins = jnp.clip(jnp.ceil(confidence * CALIBRATION_BINS) - 1, 0, CALIBRATION_BINS - 1).astype(jnp.int32)
    rows = jnp.stack([jnp.ones(labels.shape), confidence, predicted == labels])
    rows = jnp.where(real[None], rows, 0)
    calibration = jnp.matmul(rows, one_hot(bins, CALIBRATION_BINS), precision="highest")
    return {"confusion": confusion, "calibration": calibration}
