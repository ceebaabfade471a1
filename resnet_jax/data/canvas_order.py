"""Batches whose images lie on one canvas, so that little of them is padding: the order of training."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

from resnet_jax.data.broken import Broken, take_readable
from resnet_jax.data.canvases import Canvas
from resnet_jax.data.fills import SHUFFLE

_ORDERS = 8  # of epochs that are remembered


class CanvasOrder:
    """As `rows.Order`: every epoch has all examples, shuffled anew. They are handed out one by one, and wait at their
    canvas until it has a batch of them. What waits at the end of an epoch goes on waiting in the next one, so nothing
    is dropped or shown twice: the groups of torchvision's `GroupedBatchSampler`, without its filling up.

    Which batch comes when depends only on the seed: batch j of a canvas has its examples j*B to (j+1)*B, and comes when
    the last of them is handed out. So a run can continue at any batch.

    An image that cannot be read is replaced by the next one of its canvas.

    Args:
      canvases: those of a split, see `canvases.group`.
      batch_size: rows of a global batch (B).
      max_broken_fraction: fraction of examples that may be left out because they cannot be read.
    """

    def __init__(self, canvases: Sequence[Canvas], *, batch_size: int, seed: int, max_broken_fraction: float) -> None:
        self._counts = [len(canvas.indices) for canvas in canvases]
        self._length, self._batch_size, self._seed = sum(self._counts), batch_size, seed
        self._max_broken_fraction = max_broken_fraction
        self._canvas_of = np.empty(self._length, int)
        for number, canvas in enumerate(canvases):
            self._canvas_of[canvas.indices] = number
        self._orders: dict[int, list[np.ndarray]] = {}
        self._turns: dict[int, list[tuple[int, int]]] = {}
        self._broken: dict[int, str] = {}

    def canvas_at(self, position: int) -> int:
        """The number of the canvas of the batch at `position`."""
        return self._turn(position // self._batch_size)[0]

    def take(self, position: int, read: Callable[[int], None]) -> list[Broken]:
        """Calls `read` with the index of the example at `position`, as `Order.take`."""
        batch, place = divmod(position, self._batch_size)
        canvas, number = self._turn(batch)
        epoch, first = divmod(number * self._batch_size + place, self._counts[canvas])
        mine = self._order(epoch)[canvas]
        places = (int(mine[(first + step) % len(mine)]) for step in range(len(mine)))
        return take_readable(places, read, self._broken, self._length, self._max_broken_fraction)

    def _turn(self, batch: int) -> tuple[int, int]:
        """The canvas of a batch, and how many batches this canvas had before."""
        epoch = batch * self._batch_size // self._length  # or a later one, as examples wait
        while self._before(epoch + 1) <= batch:
            epoch += 1
        return self._turns_of(epoch)[batch - self._before(epoch)]

    def _before(self, epoch: int) -> int:
        """Batches that are complete before an epoch begins."""
        return sum(epoch * count // self._batch_size for count in self._counts)

    def _turns_of(self, epoch: int) -> list[tuple[int, int]]:
        turns = self._turns.get(epoch)
        if turns is None:
            order = self._canvas_of[self._permutation(epoch)]
            found = []
            for canvas, count in enumerate(self._counts):
                handed_out = np.flatnonzero(order == canvas)  # when its examples come in this epoch
                waiting = epoch * count % self._batch_size
                complete = handed_out[self._batch_size - 1 - waiting :: self._batch_size]
                first = epoch * count // self._batch_size
                found += [(int(time), canvas, first + number) for number, time in enumerate(complete)]
            turns = [(canvas, number) for _, canvas, number in sorted(found)]
            # Where examples wait, two epochs are in use.
            self._turns = {e: kept for e, kept in self._turns.items() if abs(e - epoch) == 1} | {epoch: turns}
        return turns

    def _order(self, epoch: int) -> list[Int[np.ndarray, " n"]]:
        """The examples of each canvas, in the order of an epoch."""
        orders = self._orders.get(epoch)
        if orders is None:
            order = self._permutation(epoch)
            canvases = self._canvas_of[order]
            orders = [order[canvases == canvas] for canvas in range(len(self._counts))]
            kept = sorted(self._orders)[-_ORDERS:]  # a canvas of few examples waits for many epochs
            self._orders = {e: self._orders[e] for e in kept} | {epoch: orders}
        return orders

    def _permutation(self, epoch: int) -> Int[np.ndarray, " N"]:
        return np.random.default_rng([SHUFFLE, self._seed, epoch]).permutation(self._length)
