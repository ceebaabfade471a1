"""Exact evaluation: every example counts once, on any number of devices and hosts. What is counted is the task's."""

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

BATCHES_IN_FLIGHT = 2  # the host prepares this many batches ahead; more would only hold them in device memory


class Measured(NamedTuple):
    """What is measured of a batch of N examples.

    Attributes:
      sums: over the batch's real examples, of any shape; `real_sums` leaves the padding out. They are added up over the
        batches in float64.
      rows: of N rows each, whatever is kept of every example: detections, embeddings, features.
    """

    sums: dict[str, Array]
    rows: dict[str, Array]


Sums = dict[str, np.ndarray]
"""Over a whole split, in float64; `count` is the number of its examples."""
Rows = dict[str, np.ndarray]
"""One row for each example of a split, in its order."""
Measure = Callable[[PyTree[Array], Batch, Bool[Array, " N"]], Measured]
"""`(variables, batch, which examples are real and not padding) -> Measured`, on the devices."""
Report = Callable[[Sums, Rows], dict[str, float]]
"""What follows from all that was measured: accuracy, mean IoU, COCO AP. On every host, which have all rows."""
Batches = Callable[[], Iterable[Mapping[str, np.ndarray]]]
Pass = Callable[[PyTree[Array]], tuple[Sums, Rows]]
Evaluate = Callable[[PyTree[Array]], dict[str, float]]


def real_sums(values: Mapping[str, Float[Array, "N ..."]], real: Bool[Array, " N"]) -> dict[str, Array]:
    """The sum of each over the real examples.

    By `where`, not by a product: a padded row may hold anything, and 0 * nan is nan.
    """
    masked = {name: jnp.where(real.reshape(-1, *[1] * (x.ndim - 1)), x, 0) for name, x in values.items()}
    return {name: jnp.sum(x, axis=0) for name, x in masked.items()}


def make_evaluate(
    measure: Measure, report: Report, mesh: Mesh, batches: Batches, *, count: int, split: bool = False
) -> Evaluate:
    """Returns `variables -> report of a whole split`, to which `count` is added. The arguments are `make_pass`'s."""
    measure_all = make_pass(measure, mesh, batches, count=count, split=split)

    def evaluate(variables: PyTree[Array]) -> dict[str, float]:
        return {**report(*measure_all(variables)), "count": count}

    return evaluate


def make_pass(measure: Measure, mesh: Mesh, batches: Batches, *, count: int, split: bool = False) -> Pass:
    """Returns `variables -> what is measured of a whole split`, the same on every host.

    Args:
      batches: called for each pass; gives this host's rows of what `measure` needs and of `weight` (1 real, 0 padding).
        Each host has the same number of batches.
      count: how many examples there are.
      split: whether some of the variables are split over the devices, and stay so; `measure` sees them whole.

    Raises:
      RuntimeError: from the returned function, where the examples seen are not `count`: a bug, not a user's mistake.
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
        in_flight: deque[tuple[dict[str, Array], dict[str, Array], Array]] = deque()

        def collect() -> None:
            sums, rows, real = in_flight.popleft()
            # Sums of one batch are exact in float32, or nearly so; their total is taken in float64.
            for name, value in jax.device_get(sums).items():
                total[name] = total.get(name, 0) + value.astype(np.float64)
            kept.append(jax.tree.map(_rows_here, (rows, real)))

        for batch in batches():
            in_flight.append(step(variables, put_batch(batch, sharding)))
            if len(in_flight) > BATCHES_IN_FLIGHT:
                collect()
        while in_flight:
            collect()
        rows, real = jax.tree.map(lambda *batches: _rows_everywhere(batches), *kept)
        if np.sum(real) != count:
            raise RuntimeError(f"evaluation saw {np.sum(real)} examples of {count}: the batches are wrong")
        return {**total, "count": np.float64(count)}, {name: values[real] for name, values in rows.items()}

    return measure_all


def _rows_here(array: Array) -> np.ndarray:
    """The rows of an array that lie on the devices of this host, in their order."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def _rows_everywhere(batches: Sequence[np.ndarray]) -> np.ndarray:
    """The rows of all hosts, in the order of the split: of each batch, those of the first host, the second, ..."""
    mine = np.stack(batches)
    each = multihost_utils.process_allgather(mine) if jax.process_count() > 1 else mine[None]
    return np.moveaxis(each, 0, 1).reshape(-1, *mine.shape[2:])
