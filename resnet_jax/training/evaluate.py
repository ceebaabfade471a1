"""Exact evaluation: every image counts once, on any number of devices and hosts."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt8

from resnet_jax.models import ResNet
from resnet_jax.training.losses import cross_entropy, in_top_k, one_hot
from resnet_jax.training.mesh import put_batch, replicated, split_batch
from resnet_jax.training.report import CALIBRATION_BINS, EvalReport

Normalize = Callable[[UInt8[Array, "N H W C"]], Float[Array, "N H W C"]]
Batches = Callable[[], Iterable[Mapping[str, np.ndarray]]]
Evaluate = Callable[[PyTree[Array]], dict[str, float]]
Count = Callable[[Float[Array, "N K"], Int[Array, " N"], Bool[Array, " N"]], dict[str, Array]]

BATCHES_IN_FLIGHT = 2  # the host prepares this many batches ahead; more would only hold them in device memory


def make_evaluate(model: ResNet, normalize: Normalize, mesh: Mesh, batches: Batches, *, count: int) -> Evaluate:
    """Returns `variables -> {"loss", "top1", "top5", "count"}`: means over all images, accuracies as fractions.

    Args:
      batches: called for each evaluation; gives this host's rows of `image`, `label` and `weight` (1 real, 0 padding).
      count: how many images there are. The report's `count` is what was really seen, and must equal it.

    Raises:
      RuntimeError: from the returned function, where the images seen are not `count`: a bug, not a user's mistake.
    """
    count_all = _make_pass(model, normalize, mesh, batches, _count_hits, count)

    def evaluate(variables: PyTree[Array]) -> dict[str, float]:
        return _means(count_all(variables), count)

    return evaluate


def make_detailed_evaluate(
    model: ResNet, normalize: Normalize, mesh: Mesh, batches: Batches, *, count: int
) -> Callable[[PyTree[Array]], EvalReport]:
    """Returns `variables -> EvalReport`: what `make_evaluate` gives, the confusion matrix and the calibration.

    The arguments and errors are those of `make_evaluate`. The matrix of K x K counts is summed over the devices for
    every batch, which is why training does without.
    """

    def count_in_detail(logits: Array, labels: Array, real: Array) -> dict[str, Array]:
        return {**_count_hits(logits, labels, real), **_count_details(logits, labels, real)}

    count_all = _make_pass(model, normalize, mesh, batches, count_in_detail, count)

    def evaluate(variables: PyTree[Array]) -> EvalReport:
        sums = count_all(variables)
        confusion = np.round(sums.pop("confusion")).astype(np.int64)
        return EvalReport(confusion=confusion, calibration=sums.pop("calibration"), **_means(sums, count))

    return evaluate


def _make_pass(
    model: ResNet, normalize: Normalize, mesh: Mesh, batches: Batches, count_batch: Count, count: int
) -> Callable[[PyTree[Array]], dict[str, np.ndarray]]:
    """Returns `variables -> the sums of count_batch over all batches`, in float64."""

    def eval_step(variables: PyTree[Array], batch: dict[str, Array]) -> dict[str, Array]:
        logits = model.apply(variables, normalize(batch["image"]), train=False)
        return count_batch(logits, batch["label"], batch["weight"] > 0)

    sharding = split_batch(mesh)
    step = jax.jit(eval_step, in_shardings=(replicated(mesh), sharding), out_shardings=replicated(mesh))

    def count_all(variables: PyTree[Array]) -> dict[str, np.ndarray]:
        total: dict[str, Any] = {}
        in_flight: deque = deque()

        def collect() -> None:
            # Sums of one batch are exact in float32; their total is taken in float64.
            for name, value in jax.device_get(in_flight.popleft()).items():
                total[name] = total.get(name, 0) + value.astype(np.float64)

        for batch in batches():
            in_flight.append(step(variables, put_batch(batch, sharding)))
            if len(in_flight) > BATCHES_IN_FLIGHT:
                collect()
        while in_flight:
            collect()
        seen = round(float(total["count"]))
        if seen != count:
            raise RuntimeError(f"evaluation saw {seen} images of {count}: the batches are wrong")
        return total

    return count_all


def _count_hits(logits: Array, labels: Array, real: Array) -> dict[str, Array]:
    per_image = {
        "loss": cross_entropy(logits, one_hot(labels, logits.shape[-1])),
        "top1": in_top_k(logits, labels, 1),
        "top5": in_top_k(logits, labels, 5),
        "count": jnp.ones(labels.shape),
    }
    # where, not a product: a padded row may hold anything, and 0 * nan is nan.
    return {name: jnp.sum(jnp.where(real, x, 0)) for name, x in per_image.items()}


def _count_details(logits: Array, labels: Array, real: Array) -> dict[str, Array]:
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


def _means(sums: dict[str, np.ndarray], count: int) -> dict[str, Any]:
    return {name: float(sums[name]) / count for name in ("loss", "top1", "top5")} | {"count": count}
