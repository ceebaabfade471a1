"""Rows of many requests, computed in batches of a few fixed sizes by one thread, so that nothing is compiled anew."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import numpy as np
from jaxtyping import PyTree

log = logging.getLogger("resnet_jax")

P = ParamSpec("P")
R = TypeVar("R")
Row = tuple[np.ndarray, ...]
"""What a program takes for one image, without the axis of the batch."""


@dataclass(frozen=True, eq=False)
class Program:
    """A function of batches.

    Attributes:
      compute: arrays whose first axis is that of the batch -> arrays likewise.
      rows: a row of each shape that there is.
      sizes: of batches, rising.
    """

    name: str
    compute: Callable[..., PyTree[Any]]
    rows: Sequence[Row]
    sizes: Sequence[int]


class _Waiting(NamedTuple):
    program: Program
    row: Row
    answer: asyncio.Future[PyTree[np.ndarray]]

    @property
    def kind(self) -> tuple[Any, ...]:
        """Rows of one kind can be in one batch."""
        return (self.program, *(part.shape for part in self.row))


def size_for(count: int, sizes: Sequence[int]) -> int:
    """The size of the next batch, where `count` rows wait: at most half of a batch is padding.

    It is the smallest that holds all, if they fill half of it; else the largest that they fill.
    """
    holding = [size for size in sizes if size >= count]
    if holding and (2 * count >= min(holding) or min(holding) == min(sizes)):
        return min(holding)
    return max(size for size in sizes if size <= count)


def up_to(most: int, sizes: Sequence[int]) -> list[int]:
    """The sizes for batches that need much memory: none above `most`, but for the smallest."""
    return [size for size in sizes if size <= most] or [min(sizes)]


class Work:
    """A thread that computes, and threads that decode. All methods belong to the event loop's thread.

    Args:
      observe: is told the rows and the size of each batch.
    """

    def __init__(self, threads: int, observe: Callable[[int, int], None] = lambda rows, size: None) -> None:
        self._observe = observe
        self._waiting: list[_Waiting] = []
        self._filled = asyncio.Event()
        self._model = ThreadPoolExecutor(1, "model")
        self._decoders = ThreadPoolExecutor(threads, "decode")
        self._batches: asyncio.Task[None] | None = None

    @property
    def computing(self) -> bool:
        """Whether everything is compiled, and rows are taken."""
        return self._batches is not None and not self._batches.done()

    async def compile(self, programs: Sequence[Program], going_on: Callable[[], bool]) -> None:
        """Compiles each program for each shape and size, and then takes rows.

        Args:
          going_on: is asked before each program.
        """
        loop = asyncio.get_running_loop()
        for program in programs:
            for row in program.rows:
                for size in program.sizes:
                    if not going_on():
                        return
                    await loop.run_in_executor(self._model, _compute, program, [row], size)
        self._batches = loop.create_task(self._go_on())

    async def compute(self, program: Program, *row: np.ndarray) -> Any:
        """What a program says of a row, from a batch with whatever else waits."""
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(program, row, answer))
        self._filled.set()
        return await answer

    async def in_pool(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Calls a function in one of the threads that decode."""
        call = lambda: function(*args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._decoders, call)

    def close(self) -> None:
        if self._batches is not None:
            self._batches.cancel()
        self._model.shutdown(wait=False, cancel_futures=True)
        self._decoders.shutdown(wait=False, cancel_futures=True)

    async def _go_on(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._filled.wait()
            batch, size = self._take()
            if not batch:
                self._filled.clear()
                continue
            self._observe(len(batch), size)
            rows = [one.row for one in batch]
            try:
                results = await loop.run_in_executor(self._model, _compute, batch[0].program, rows, size)
            except Exception as error:  # of these requests; the next batch may be well
                log.exception("a batch of %d images failed", len(batch))
                for one in batch:
                    if not one.answer.done():
                        one.answer.set_exception(error)
                continue
            for one, result in zip(batch, results, strict=True):
                if not one.answer.done():
                    one.answer.set_result(result)

    def _take(self) -> tuple[list[_Waiting], int]:
        """The rows of the next batch: those of the kind that has waited longest."""
        self._waiting = [one for one in self._waiting if not one.answer.done()]  # some were given up meanwhile
        if not self._waiting:
            return [], 0
        program, kind = self._waiting[0].program, self._waiting[0].kind
        same = [one for one in self._waiting if one.kind == kind][: max(program.sizes)]
        size = size_for(len(same), program.sizes)
        taken = same[:size]
        gone = set(map(id, taken))
        self._waiting = [one for one in self._waiting if id(one) not in gone]
        return taken, size


def _compute(program: Program, rows: Sequence[Row], size: int) -> list[PyTree[np.ndarray]]:
    columns = []
    for column in zip(*rows, strict=True):
        padded = np.zeros((size, *column[0].shape), column[0].dtype)
        padded[: len(rows)] = column
        columns.append(padded)
    results = jax.device_get(program.compute(*columns))
    return [jax.tree.map(lambda array: array[place], results) for place in range(len(rows))]  # noqa: B023
