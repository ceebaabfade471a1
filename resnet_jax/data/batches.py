"""Batches of a source: endless and shuffled in training; in order, once and padded in evaluation.

Everything is a function of the global position: the number of images that all hosts together handed out before.
Shuffling and cropping depend only on the seed and that position. So the global batches are the same for any number of
hosts and threads, and a run can continue where it stopped if it saves this one integer.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from operator import itemgetter
from typing import Any

import grain
from absl.flags import FLAGS

from resnet_jax.config import DataConfig
from resnet_jax.config.checked import exact, nearest_multiples
from resnet_jax.data.broken import Broken, BrokenImages
from resnet_jax.data.canvas_order import CanvasOrder
from resnet_jax.data.fills import EvalImage, Fill, OnCanvases, Resizable, TrainImage
from resnet_jax.data.identities import ClassOrder
from resnet_jax.data.rows import Batch, EvalRows, FillsInTurn, FillsOfCanvases, MakeBatch, Order, TrainRows
from resnet_jax.data.sources import Example, Source
from resnet_jax.errors import ConfigError, DataError, ImageError

# While the device works on a batch, the next two are filled. With two of them no thread waits for the last image of the
# first.
_AHEAD = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)

# How many examples are tried to find one that can be read, and so to learn which leaves examples have.
_TRIES = 8


class TrainBatches(grain.DatasetIterator[Batch]):
    """An endless iterator over batches. It can be stopped, saved and continued, also on another number of hosts.

    Its state is `{"position": images handed out so far, over all hosts}`. If this host had to pass over images, it also
    has `"broken"`: pairs of an image's index and why the image cannot be read.
    """

    def __init__(self, open_at: Callable[[int], grain.IterDataset], batch_size: int, broken: BrokenImages) -> None:
        super().__init__()
        self.broken = broken
        """The images that were passed over in the batches that this host got so far."""
        self._open_at = open_at
        self._batch_size = batch_size
        self._position = 0
        self._batches: grain.DatasetIterator | None = None

    def __next__(self) -> Batch:
        self.start_prefetch()
        assert self._batches is not None
        try:
            batch, broken = next(self._batches)
            for index, reason in broken:
                self.broken.add(index, reason)
        except BaseException:
            self.set_state(self.get_state())  # part of the batch is consumed: the next call begins it again
            raise
        self._position += self._batch_size
        return batch

    def get_state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"position": self._position}
        return {**state, "broken": sorted(self.broken.reasons.items())} if len(self.broken) else state

    def set_state(self, state: dict[str, Any]) -> None:
        self._stop()
        self._position = int(state["position"])
        self.broken.remember(state.get("broken", ()))

    def start_prefetch(self) -> None:
        self._assert_not_closed()
        if self._batches is None:
            self._batches = iter(self._open_at(self._position))
            self._batches.start_prefetch()

    def close(self) -> None:
        self._stop()
        super().close()

    def _stop(self) -> None:
        if self._batches is not None:
            self._batches.close()
            self._batches = None


def train_batches(
    source: Source,
    config: DataConfig,
    *,
    batch_size: int,
    seed: int,
    fill: Fill | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> TrainBatches:
    """Endless shuffled batches of this host.

    Every image comes exactly once per epoch, in an order of its own for each epoch. A batch may begin in one epoch and
    end in the next, so nothing is dropped. Host p of P gets rows p*B/P to (p+1)*B/P of each global batch.

    With `config.repeats` = r, each image of the order is taken r times, cropped differently. An epoch keeps its number
    of rows, so it sees the first 1/r of the order, as with torchvision's `RASampler`. The copies of an image lie B / r
    rows apart in a batch. So neighbours, which may be mixed or share BatchNorm groups, are different images (in
    torchvision, copies go to different GPUs).

    With `config.augment.resizes`, images are larger or smaller from some batches on. The size is that of a batch by its
    number, so it does not depend on hosts or on where a run was continued.

    Where `fill` has several canvases, the images of a batch lie on one, see `canvas_order.CanvasOrder`.

    With `config.per_identity` = k, a batch holds k images each of B / k classes instead, see `identities.ClassOrder`.

    An image that cannot be read is left out. The next readable image of the epoch's order takes its place, so the
    result depends only on the files. The image is counted in `broken` and named in the log, once.

    Args:
      batch_size: images per batch over all hosts (B).
      seed: of the order and of the draws of `fill`.
      fill: writes the rows; None = `fills.TrainImage`, which writes images and labels.
    Returns:
      An iterator that can be saved over dictionaries of arrays of B/P rows, whose shapes are `fill.leaves`.
    Raises:
      DataError: no images, examples that lack what `fill` needs, or a batch size that the hosts cannot share equally;
        while iterating, more unreadable images than `config.max_broken_fraction`.
      ConfigError: `config.augment.resizes` asks for several sizes, and `fill` knows one; or `fill` has canvases, and
        `config` says otherwise which images a batch holds.
    """
    fill = fill or TrainImage(config)
    _check_batches(source, fill, batch_size, process_count)
    common: dict[str, Any] = {
        "batch_size": batch_size,
        "seed": seed,
        "max_broken_fraction": config.max_broken_fraction,
    }
    canvases = fill.canvases_of(source) if isinstance(fill, OnCanvases) else ()
    order: Order | ClassOrder | CanvasOrder
    fill_at: FillsInTurn | FillsOfCanvases
    if canvases and isinstance(fill, OnCanvases):
        _check_alone(config)
        order = CanvasOrder(canvases, **common)
        fill_at = FillsOfCanvases([fill.on(canvas.size) for canvas in canvases], order)
    else:
        order = (
            ClassOrder(source.labels(), source.class_names, per_class=config.per_identity, **common)
            if config.per_identity
            else Order(len(source), repeats=config.repeats, **common)
        )
        fill_at = fills_of(fill, config, len(source), batch_size)
    rows = TrainRows(source, fill_at, order, seed)

    def open_at(position: int) -> grain.IterDataset[tuple[Batch, list[Broken]]]:
        make = MakeBatch(rows, start=position, **_share(config, batch_size, process_index, process_count))
        return _ahead(grain.MapDataset.range(sys.maxsize).map(make), config)

    return TrainBatches(open_at, batch_size, BrokenImages(len(source), config.max_broken_fraction))


def eval_batches(
    source: Source,
    config: DataConfig,
    *,
    batch_size: int,
    fill: Fill | None = None,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.IterDataset[Batch]:
    """This host's batches of one pass over the source, in order. Every image comes exactly once, with weight 1.

    The last global batch is filled up with zeros, and their weight is 0. So all batches have one shape, and all hosts
    have the same number of batches. Host p of P gets rows p*B/P to (p+1)*B/P of each global batch.

    An image that cannot be read is an error here: an accuracy over fewer images is not the accuracy of the split.

    Args:
      batch_size: images per batch over all hosts (B).
      fill: writes the rows; None = `fills.EvalImage`, which writes images and labels.
      start: the index of the first image; those before it are left out.
    Returns:
      An iterable that can be used any number of times. It gives dictionaries of arrays of B/P rows, whose shapes are
      `fill.leaves`, and `weight` float32.
    Raises:
      DataError: no images, examples that lack what `fill` needs, or a batch size that the hosts cannot share equally;
        while iterating, an unreadable image.
    """
    fill = fill or EvalImage(config.preset)
    _check_batches(source, fill, batch_size, process_count)
    make = MakeBatch(EvalRows(source, fill), start=start, **_share(config, batch_size, process_index, process_count))
    count = -(-(len(source) - start) // batch_size)
    return _ahead(grain.MapDataset.range(count).map(make).map(itemgetter(0)), config)


def fills_of(fill: Fill, config: DataConfig, length: int, batch_size: int) -> FillsInTurn:
    """The fills of a run over `length` examples: one, or one for each size of `config.augment.resizes`.

    A size begins with the batch that is nearest to its epoch.

    Raises:
      ConfigError: `fill` knows one size.
    """
    resizes = config.augment.resizes
    if not resizes:
        return FillsInTurn(((0, fill),))
    if not isinstance(fill, Resizable):
        raise ConfigError(
            f"data.augment.resizes asks for images of {len(resizes) + 1} sizes, and {type(fill).__name__} writes one "
            "size; leave it out, or give the fill a method `sized`"
        )
    starts = [round(exact(resize.epoch) * Fraction(length, batch_size)) * batch_size for resize in resizes]
    later = zip(starts, (fill.sized(one.size) for one in resizes), strict=True)
    return FillsInTurn(((0, fill.sized(config.train_size)), *later))


def _check_alone(config: DataConfig) -> None:
    """Raises a ConfigError where canvases are not all that says which images a batch holds."""
    if config.repeats > 1 or config.per_identity or config.augment.resizes:
        raise ConfigError(
            f"data.repeats = {config.repeats}, per_identity = {config.per_identity} and {len(config.augment.resizes)} "
            "augment.resizes say which images a batch holds and how large they are, and task.train_canvases does too; "
            "leave them out, or set task.train_canvases = 1"
        )


def _ahead(batches: grain.MapDataset, config: DataConfig) -> grain.IterDataset:
    """Batches in order, made while earlier ones are used. Of P worker processes, process p makes every P-th batch."""
    made = batches.to_iter_dataset(_AHEAD)
    if not config.workers:
        return made
    if not FLAGS.is_parsed():
        FLAGS.mark_as_parsed()  # Grain's processes read flags of absl, which this program does not parse otherwise
    return made.mp_prefetch(grain.MultiprocessingOptions(num_workers=config.workers))


def _share(config: DataConfig, batch_size: int, process_index: int, process_count: int) -> dict[str, int]:
    return {
        "threads": -(-config.threads // max(config.workers, 1)),
        "batch_size": batch_size,
        "process_index": process_index,
        "process_count": process_count,
    }


def _check_batches(source: Source, fill: Fill, batch_size: int, process_count: int) -> None:
    if not len(source):
        raise DataError("the source holds 0 images; batches need at least one. Choose another data set or split")
    if batch_size % process_count:
        raise DataError(
            f"batch_size = {batch_size} is not divisible by the {process_count} processes that share a batch; "
            f"the nearest that are: {nearest_multiples(batch_size, process_count)}"
        )
    example = next(_readable(source), None)
    if example and (missing := [name for name in fill.needs if name not in example]):
        raise DataError(
            f"the examples hold {', '.join(sorted(example))} and lack {', '.join(missing)}, which "
            f"{type(fill).__name__} needs; choose a data set that has them, or another task"
        )


def _readable(source: Source) -> Iterator[Example]:
    for index in range(min(len(source), _TRIES)):
        with contextlib.suppress(ImageError):
            yield source[index]
