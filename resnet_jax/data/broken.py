"""Counts and names images that cannot be read."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from threading import Lock

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather

from resnet_jax.errors import DataError, ImageError

log = logging.getLogger(__name__)

Broken = tuple[int, str]
"""The index of an image and why it cannot be read."""


class BrokenImages:
    """The images of a source that could not be read. Each is named once in the log. Several threads use it.

    Args:
      count: how many images the source has.
      max_fraction: the fraction of them that may be broken.
    """

    def __init__(self, count: int, max_fraction: float) -> None:
        self._count, self._max_fraction = count, max_fraction
        self._lock = Lock()
        self.reasons: dict[int, str] = {}
        """Why each image cannot be read, by its index."""

    def __len__(self) -> int:
        return len(self.reasons)

    def __contains__(self, index: int) -> bool:
        return index in self.reasons

    def add(self, index: int, reason: str) -> None:
        """Notes that an image is left out.

        Raises:
          DataError: more images are left out than `max_fraction` allows.
        """
        with self._lock:
            if index in self.reasons:
                return
            self.reasons[index] = reason
            log.warning("leaving out image %d: %s", index, reason)
        self.check(len(self.reasons))

    def remember(self, known: Iterable[Broken]) -> None:
        """Adds images that the run that is continued has found, named and checked before."""
        self.reasons |= {int(index): reason for index, reason in known}

    def check(self, broken: int) -> None:
        """Raises a DataError if `broken` images are too many."""
        if broken > self._max_fraction * self._count:
            raise too_many(self.reasons, self._count, self._max_fraction, broken)


def take_readable(
    indices: Iterable[int], read: Callable[[int], None], known: dict[int, str], count: int, max_fraction: float
) -> list[Broken]:
    """Calls `read` with the first of these images that can be read. Returns those that were passed over before it.

    Args:
      indices: of images, in the order in which they are tried.
      read: raises ImageError where an image cannot be read.
      known: why images cannot be read, of those that were tried before. New ones are added.
      count: the number of all images.

    Raises:
      DataError: none of them can be read.
    """
    passed_over: list[Broken] = []
    for index in indices:
        if index not in known:
            try:
                read(index)
                return passed_over
            except ImageError as error:
                known[index] = str(error)
        passed_over.append((index, known[index]))
    raise too_many(dict(passed_over), count, max_fraction)


def too_many(reasons: Mapping[int, str], count: int, max_fraction: float, broken: int | None = None) -> DataError:
    """The error for too many broken images.

    Args:
      reasons: why images cannot be read, for those that are known.
      count: the number of all images.
      broken: the number of broken images, if not all reasons are known.
    """
    first = next(iter(reasons.values()), "named in the log of the run that found it")
    return DataError(
        f"{len(reasons) if broken is None else broken} of {count} images cannot be read, more than "
        f"max_broken_fraction = {max_fraction:g} allows. The first: {first}. Mend the data set, or allow more"
    )


def found_by_any_host(reasons: Mapping[int, str]) -> dict[int, str]:
    """The images that any host found broken. Each host must call this, with the images that it found itself."""
    if jax.process_count() == 1:
        return dict(sorted(reasons.items()))
    # Hosts exchange arrays of one shape: JSON as bytes, padded to the longest.
    text = np.frombuffer(json.dumps(list(reasons.items())).encode(), np.uint8)
    lengths = process_allgather(np.array(len(text)))
    texts = process_allgather(np.pad(text, (0, lengths.max() - len(text))))
    each = (json.loads(bytes(row[:length])) for row, length in zip(texts, lengths, strict=True))
    return dict(sorted((index, reason) for found in each for index, reason in found))
