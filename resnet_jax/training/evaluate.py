"""Exact evaluation: every example counts once, on any number of devices and hosts. The task says what is measured."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, PyTree

from resnet_jax.runtime.mesh import put_batch, replicated, split_batch
from resnet_jax.training.accumulate import Batch

BATCHES_IN_FLIGHT = 2  # the host prepares this many batches ahead; more would only take device memory


class Measured(NamedTuple):
    """The measurements of a batch of N examples.

    Attributes:
      sums: of any shape, over the batch's real examples; `real_sums` leaves the padding out. They are added up over the
        batches in float64.
      rows: arrays of N rows each, for values that are kept of every example: detections, embeddings, features.
    """

    sums: dict[str, Array]
    rows: dict[str, Array]


Sums = dict[str, np.ndarray]
"""Sums over a whole split, in float64. `count` is the number of its examples."""
Rows = dict[str, np.ndarray]
"""Arrays with one row for each example of a split, in the order of the split."""
Measure = Callable[[PyTree[Array], Batch, Bool[Array, " N"]], Measured]
"""`(variables, batch, which examples are real and not padding) -> Measured`, on the devices."""
Report = Callable[[Sums, Rows], dict[str, float]]
"""The results that follow from all measurements: accuracy, mean IoU, COCO AP. Every host computes them, from all rows.
"""
Keep = Callable[[Rows], None]
"""Takes the rows of a batch's real examples. Batches come in the order of the split."""
Batches = Callable[[], Iterable[Mapping[str, np.ndarray]]]
Pass = Callable[[PyTree[Array]], tuple[Sums, Rows]]
Evaluate = Callable[[PyTree[Array]], dict[str, float]]


def real_sums(values: Mapping[str, Float[Array, "N ..."]], real: Bool[Array, " N"]) -> dict[str, Array]:
    """The sum of each value over the real examples.

    It uses `where`, not a product: a padded row may hold anything, and 0 * nan is nan.
    """
    masked = {name: jnp.where(real.reshape(-1, *[1] * (x.ndim - 1)), x, 0) for name, x in values.items()}
    return {name: jnp.sum(x, axis=0) for name, x in masked.items()}


def make_evaluate(
    measure: Measure, report: Report, mesh: Mesh, batches: Batches, *, count: int, split: bool = False
) -> Evaluate:
    """Returns `variables -> report of a whole split`, with `count` added. The arguments are those of `make_pass`."""
    measure_all = make_pass(measure, mesh, batches, count=count, split=split)

    def evaluate(variables: PyTree[Array]) -> dict[str, float]:
        return {**report(*measure_all(variables)), "count": count}

    return evaluate


def make_pass(
    measure: Measure, mesh: Mesh, batches: Batches, *, count: int, split: bool = False, keep: Keep | None = None
) -> Pass:
    """Returns `variables -> measurements of a whole split`, which are the same on every host.

    Args:
      batches: called for each pass. It gives this host's rows of the leaves that `measure` needs, and of `weight` (1
        real, 0 padding). Each host has the same number of batches.
      count: how many examples there are.
      split: whether some of the variables are split over the devices, and stay so. `measure` sees them whole.
      keep: takes the rows of each batch, on every host, as soon as they are there. Then they are not returned, and the
        memory does not grow with `count`.

    Raises:
      RuntimeError: from the returned function: it has not seen `count` examples. This is a bug, not a user's mistake.
    """

    def eval_step(variables: PyTree[Array], batch: Batch) -> tuple[dict[str, Array], dict[str, Array], Array]:
        real = batch["weight"] > 0
        return *measure(variables, batch, real), real

    sharding, everywhere = split_batch(mesh), replicated(mesh)
    step = jax.jit(
        eval_step,
        in_shardings=(None if split else everywhere, sharding),
        out_shardings=(everywhere, sharding, sharding),
    )

    def measure_all(variables: PyTree[Array]) -> tuple[Sums, Rows]:
        total: dict[str, Any] = {}
        kept: list[tuple[Rows, np.ndarray]] = []
        seen = 0
        in_flight: deque[tuple[dict[str, Array], dict[str, Array], Array]] = deque()

        def collect() -> None:
            nonlocal seen
            sums, rows, real = in_flight.popleft()
            # Sums of one batch are exact in float32, or nearly so. Their total is computed in float64.
            for name, value in jax.device_get(sums).items():
                total[name] = total.get(name, 0) + value.astype(np.float64)
            kept.append(jax.tree.map(_rows_here, (rows, real)))
            if keep is not None:
                real_rows, number = _real_rows(kept)
                kept.clear()
                keep(real_rows)
                seen += number

        for batch in batches():
            in_flight.append(step(variables, put_batch(batch, sharding)))
            if len(in_flight) > BATCHES_IN_FLIGHT:
                collect()
        while in_flight:
            collect()
        all_rows: Rows = {}
        if keep is None:
            all_rows, seen = _real_rows(kept)
        if seen != count:
            raise RuntimeError(f"evaluation saw {seen} examples of {count}: the batches are wrong")
        return {**total, "count": np.float64(count)}, all_rows

    return measure_all


def _real_rows(kept: Sequence[tuple[Rows, np.ndarray]]) -> tuple[Rows, int]:
    """The rows of all hosts that are no padding, and their number."""
    rows, real = jax.tree.map(lambda *batches: _rows_everywhere(batches), *kept)
    return {name: values[real] for name, values in rows.items()}, int(np.sum(real))


def _rows_here(array: Array) -> np.ndarray:
    """The rows of an array that lie on the devices of this host, in order."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def _rows_everywhere(batches: Sequence[np.ndarray]) -> np.ndarray:
    """The rows of all hosts, in the order of the split: for each batch those of host 0, of host 1, and so on."""
    mine = np.stack(batches)
    each = multihost_utils.process_allgather(mine) if jax.process_count() > 1 else mine[None]
    return np.moveaxis(each, 0, 1).reshape(-1, *mine.shape[2:])
