"""Batches of several images of each of some classes, for losses that compare the images of a batch."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from resnet_jax.data.broken import Broken, take_readable
from resnet_jax.data.fills import SHUFFLE
from resnet_jax.errors import DataError

_IMAGES = 1  # of the random streams after SHUFFLE: 0 would be the order of the classes


class ClassOrder:
    """As `rows.Order`: batches of `per_class` images each of as many classes as fit in.

    The classes come in turns, shuffled anew in each round; a class is in a batch once. Its images are drawn at random.
    An image that cannot be read is replaced by another one of its class.

    Args:
      labels: of all examples.
      class_names: for errors.
      max_broken_fraction: fraction of examples that may be left out because they cannot be read.

    Raises:
      DataError: a class with one image, or fewer classes than a batch holds.
    """

    def __init__(
        self,
        labels: Int[np.ndarray, " N"],
        class_names: tuple[str, ...],
        *,
        batch_size: int,
        per_class: int,
        seed: int,
        max_broken_fraction: float,
    ) -> None:
        self._of_class = [np.flatnonzero(labels == label) for label in range(len(class_names))]
        self._classes = batch_size // per_class
        if batch_size % per_class or self._classes < 2:
            raise DataError(
                f"batch_size = {batch_size} does not hold data.per_identity = {per_class} images each of at least two "
                "classes; make it a multiple"
            )
        if few := [name for name, of in zip(class_names, self._of_class, strict=True) if len(of) < 2]:
            raise DataError(
                f"data.per_identity = {per_class}: {len(few)} classes have fewer than two images, the first is "
                f"{few[0]}; such an image has no other to be compared with. Leave these classes out, or bring images"
            )
        if len(class_names) < self._classes:
            raise DataError(
                f"a batch of {batch_size} images, data.per_identity = {per_class} of each class, has {self._classes} "
                f"classes, and the data set has {len(class_names)}; set batch_size to at most "
                f"{len(class_names) * per_class}"
            )
        self._per_class, self._seed, self._batch_size = per_class, seed, batch_size
        self._length, self._max_broken_fraction = len(labels), max_broken_fraction
        self._round = (-1, np.empty(0, int))
        self._broken: dict[int, str] = {}

    def take(self, position: int, read: Callable[[int], None]) -> list[Broken]:
        """Calls `read` with the index of the example at `position`, as `Order.take`."""
        batch, place = divmod(position, self._batch_size)
        slot, copy = divmod(place, self._per_class)
        in_round = len(self._of_class) // self._classes
        number, turn = divmod(batch, in_round)
        label = int(self._classes_of(number)[turn * self._classes + slot])
        mine = self._of_class[label]
        drawn = np.random.default_rng([SHUFFLE, self._seed, number, label, _IMAGES]).permutation(len(mine))
        places = (int(mine[drawn[step % len(mine)]]) for step in range(copy, copy + len(mine)))
        return take_readable(places, read, self._broken, self._length, self._max_broken_fraction)

    def _classes_of(self, number: int) -> Int[np.ndarray, " C"]:
        known, order = self._round
        if known != number:
            order = np.random.default_rng([SHUFFLE, self._seed, number]).permutation(len(self._of_class))
            self._round = (number, order)
        return order
