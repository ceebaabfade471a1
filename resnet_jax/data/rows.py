"""The rows of batches: which example belongs in which row, and batches filled with rows.

Everything here is pickled for worker processes.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int

from resnet_jax.data.broken import Broken, take_readable
from resnet_jax.data.canvas_order import CanvasOrder
from resnet_jax.data.fills import SHUFFLE, Draws, Fill, Row
from resnet_jax.data.identities import ClassOrder
from resnet_jax.data.sources import Source

Batch = dict[str, np.ndarray]
"""N rows of every array that a fill writes and, in evaluation, `weight` float32 (N,)."""


@dataclass(frozen=True)
class FillsInTurn:
    """The fills of a run, each with the global position from which on it writes the rows. Each begins with a batch."""

    fills: Sequence[tuple[int, Fill]]

    def __call__(self, position: int) -> Fill:
        return next(fill for start, fill in reversed(self.fills) if start <= position)


@dataclass(frozen=True)
class FillsOfCanvases:
    """The fills of a run whose batches lie on canvases, one for each canvas."""

    fills: Sequence[Fill]
    order: CanvasOrder

    def __call__(self, position: int) -> Fill:
        return self.fills[self.order.canvas_at(position)]


FillAt = FillsInTurn | FillsOfCanvases
"""Gives the fill that writes the rows of the batch at a global position."""

# To hand out a task costs time. So many rows share one task.
_ROWS_PER_TASK = 8


class Rows(Protocol):
    """The rows of all batches together, by their position in the global order."""

    def empty(self, position: int, count: int) -> Batch:
        """`count` rows of a batch, from `position` on, that are not written yet."""

    def write(self, position: int, batch: Batch, row: int) -> Iterable[Broken]:
        """Writes a row of a batch. Returns the images that were passed over because they cannot be read."""


class Order:
    """Which example stands at a position of the global order. Every epoch has all examples, shuffled anew.

    Args:
      length: how many examples there are.
      batch_size: rows of a global batch.
      repeats: how often an epoch takes each example of its order, see `batches.train_batches`.
      max_broken_fraction: fraction of examples that may be left out because they cannot be read.
    """

    def __init__(self, length: int, *, batch_size: int, seed: int, repeats: int, max_broken_fraction: float) -> None:
        self._length, self._batch_size, self._seed = length, batch_size, seed
        self._repeats, self._max_broken_fraction = repeats, max_broken_fraction
        # The first copies of all examples come first in a batch, then the second copies, and so on.
        self._spread = np.argsort(np.arange(batch_size) % repeats, kind="stable")
        self._orders: dict[int, np.ndarray] = {}
        self._broken: dict[int, str] = {}

    def take(self, position: int, read: Callable[[int], None]) -> list[Broken]:
        """Calls `read` with the index of the example at `position`. If `read` raises ImageError, the next example of
        the epoch's order is tried. Returns the examples that were passed over.
        """
        batch_number, place_in_batch = divmod(position, self._batch_size)
        epoch, offset = divmod(batch_number * self._batch_size + int(self._spread[place_in_batch]), self._length)
        order, first = self._order(epoch), offset // self._repeats
        places = (int(order[place % self._length]) for place in range(first, first + self._length))
        return take_readable(places, read, self._broken, self._length, self._max_broken_fraction)

    def _order(self, epoch: int) -> Int[np.ndarray, " N"]:
        order = self._orders.get(epoch)
        if order is None:
            order = np.random.default_rng([SHUFFLE, self._seed, epoch]).permutation(self._length)
            # Where a batch begins in one epoch and ends in the next, two orders are in use.
            self._orders = {e: kept for e, kept in self._orders.items() if abs(e - epoch) == 1} | {epoch: order}
        return order


class TrainRows:
    """See `batches.train_batches`."""

    def __init__(self, source: Source, fill_at: FillAt, order: Order | ClassOrder | CanvasOrder, seed: int) -> None:
        self._source, self._fill_at, self._order, self._seed = source, fill_at, order, seed

    def empty(self, position: int, count: int) -> Batch:
        return _empty(count, self._fill_at(position))

    def write(self, position: int, batch: Batch, row: int) -> Iterable[Broken]:
        views, draws, fill = _row(batch, row), Draws(self._seed, position), self._fill_at(position)
        return self._order.take(position, lambda index: fill(_example(self._source, index), draws, views))


class EvalRows:
    """See `batches.eval_batches`."""

    def __init__(self, source: Source, fill: Fill) -> None:
        self._source, self._fill = source, fill

    def empty(self, position: int, count: int) -> Batch:
        return {**_empty(count, self._fill), "weight": np.empty(count, np.float32)}

    def write(self, position: int, batch: Batch, row: int) -> Iterable[Broken]:
        views = _row(batch, row)
        real = position < len(self._source)
        views.pop("weight")[...] = real
        if real:
            self._fill(_example(self._source, position), Draws(0, position), views)
        else:
            for view in views.values():
                view[...] = 0
        return ()


def _example(source: Source, index: int) -> dict[str, Any]:
    return {"name": f"image {index}", **source[index]}


def _empty(count: int, fill: Fill) -> Batch:
    return {name: np.empty((count, *shape), dtype) for name, (shape, dtype) in fill.leaves.items()}


def _row(batch: Batch, row: int) -> Row:
    return {name: rows[row, ...] for name, rows in batch.items()}


class MakeBatch:
    """Makes this host's part of a global batch. Its rows are made at the same time, directly in the memory of the
    batch.

    To make an image first and to copy it into its batch would fill fresh memory twice, which costs as much as resizing.

    Args:
      threads: how many rows are made at the same time.
      start: the global position at which batch 0 begins.
      batch_size: rows of a global batch. Host p of P makes rows p*B/P to (p+1)*B/P of it.
    """

    def __init__(
        self, rows: Rows, *, threads: int, start: int, batch_size: int, process_index: int, process_count: int
    ) -> None:
        self._rows, self._threads, self._batch_size = rows, threads, batch_size
        self._count = batch_size // process_count
        self._start = start + process_index * self._count
        self._pool = ThreadPoolExecutor(threads, "data")

    def __call__(self, number: int) -> tuple[Batch, list[Broken]]:
        """The batch, and the images that were passed over because they cannot be read."""
        position = self._start + number * self._batch_size
        batch = self._rows.empty(position, self._count)

        def write(rows: range) -> list[Broken]:
            return [broken for row in rows for broken in self._rows.write(position + row, batch, row)]

        step = min(max(self._count // self._threads, 1), _ROWS_PER_TASK)
        tasks = [
            self._pool.submit(write, range(row, min(row + step, self._count))) for row in range(0, self._count, step)
        ]
        return batch, [broken for task in tasks for broken in task.result()]

    def __getstate__(self) -> dict[str, Any]:
        # A pool of threads cannot be pickled: each worker process makes its own.
        return {name: value for name, value in vars(self).items() if name != "_pool"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _pool=ThreadPoolExecutor(state["_threads"], "data"))
