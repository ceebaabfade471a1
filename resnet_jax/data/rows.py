"""The rows of batches: which image belongs where, what the host makes of it, and batches filled with them.

All this is pickled for worker processes.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int

from resnet_jax.config import DataConfig
from resnet_jax.data.broken import Broken, too_many
from resnet_jax.data.policies import apply_policy
from resnet_jax.data.sources import Source
from resnet_jax.data.transforms import decode, random_crop_into, resize_and_center_crop
from resnet_jax.errors import ImageError

Batch = dict[str, np.ndarray]
"""`image` uint8 (N, S, S, C), `label` int32 (N,) and, in evaluation, `weight` float32 (N,)."""

# Which stream of random numbers: a shuffle, a crop and a policy never share one.
_SHUFFLE, _CROP, _POLICY = 0, 1, 2
# What handing out a task costs is shared by so many images.
_ROWS_PER_TASK = 8


class Rows(Protocol):
    """The rows of all batches together, by their position in the global order."""

    def empty(self, count: int) -> Batch:
        """So many rows that are not written yet."""

    def write(self, position: int, batch: Batch, row: int) -> Iterable[Broken]:
        """Writes a row of a batch. Returns the images that were passed over because they cannot be read."""


class TrainRows:
    """See `batches.train_batches`."""

    def __init__(self, source: Source, config: DataConfig, batch_size: int, seed: int) -> None:
        self._source, self._config, self._batch_size, self._seed = source, config, batch_size, seed
        # First copies of all images, then second ones, ...
        self._spread = np.argsort(np.arange(batch_size) % config.repeats, kind="stable")
        self._orders: dict[int, np.ndarray] = {}
        self._broken: dict[int, str] = {}

    def empty(self, count: int) -> Batch:
        return _empty(count, self._config.train_size, self._config.channels)

    def write(self, position: int, batch: Batch, row: int) -> Iterable[Broken]:
        batch_number, place_in_batch = divmod(position, self._batch_size)
        length = len(self._source)
        epoch, offset = divmod(batch_number * self._batch_size + int(self._spread[place_in_batch]), length)
        order, first = self._order(epoch), offset // self._config.repeats
        passed_over: list[Broken] = []
        for place in range(first, first + length):
            index = int(order[place % length])
            if index not in self._broken:
                try:
                    self._write(index, position, batch, row)
                    return passed_over
                except ImageError as error:
                    self._broken[index] = str(error)
            passed_over.append((index, self._broken[index]))
        raise too_many(dict(passed_over), length, self._config.max_broken_fraction)

    def _write(self, index: int, position: int, batch: Batch, row: int) -> None:
        example, config = self._source[index], self._config
        encoded, name, out = example["image"], example.get("name", f"image {index}"), batch["image"][row]
        if config.augment.random_resized_crop:
            rng = np.random.default_rng([_CROP, self._seed, position])
            random_crop_into(out, encoded, rng, config.augment.crop_min_area, name=name)
        else:
            image = decode(encoded, config.channels, name=name)
            out[...] = resize_and_center_crop(image, config.eval_resize, config.train_size)
        if config.augment.policy != "none":
            out[...] = apply_policy(out, np.random.default_rng([_POLICY, self._seed, position]), config.augment)
        batch["label"][row] = example["label"]

    def _order(self, epoch: int) -> Int[np.ndarray, " N"]:
        order = self._orders.get(epoch)
        if order is None:
            order = np.random.default_rng([_SHUFFLE, self._seed, epoch]).permutation(len(self._source))
            # Where batches run over the end of an epoch, two orders are in use.
            self._orders = {e: kept for e, kept in self._orders.items() if abs(e - epoch) == 1} | {epoch: order}
        return order


class EvalRows:
    """See `batches.eval_batches`."""

    def __init__(self, source: Source, config: DataConfig) -> None:
        self._source, self._config = source, config

    def empty(self, count: int) -> Batch:
        batch = _empty(count, self._config.image_size, self._config.channels)
        return {**batch, "weight": np.empty(count, np.float32)}

    def write(self, position: int, batch: Batch, row: int) -> Iterable[Broken]:
        real = position < len(self._source)
        batch["weight"][row] = real
        if real:
            example, config = self._source[position], self._config
            image = decode(example["image"], config.channels, name=example.get("name", f"image {position}"))
            batch["image"][row] = resize_and_center_crop(image, config.eval_resize, config.image_size)
            batch["label"][row] = example["label"]
        else:
            batch["image"][row] = batch["label"][row] = 0
        return ()


def _empty(count: int, size: int, channels: int) -> Batch:
    return {"image": np.empty((count, size, size, channels), np.uint8), "label": np.empty(count, np.int32)}


class MakeBatch:
    """Makes this host's part of a global batch, its rows at the same time and right where they will lie.

    Filling fresh memory with an image twice, once for itself and once for its batch, would cost as much as resizing it.

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
        batch, position = self._rows.empty(self._count), self._start + number * self._batch_size

        def write(rows: range) -> list[Broken]:
            return [broken for row in rows for broken in self._rows.write(position + row, batch, row)]

        step = min(max(self._count // self._threads, 1), _ROWS_PER_TASK)
        tasks = [
            self._pool.submit(write, range(row, min(row + step, self._count))) for row in range(0, self._count, step)
        ]
        return batch, [broken for task in tasks for broken in task.result()]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_pool"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _pool=ThreadPoolExecutor(state["_threads"], "data"))
