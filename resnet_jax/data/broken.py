"""Counting images that cannot be read."""

import json
import logging
from collections.abc import Iterable, Mapping
from threading import Lock

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather

from resnet_jax.errors import DataError

log = logging.getLogger(__name__)

Broken = tuple[int, str]
"""The index of an image and why it cannot be read."""


class BrokenImages:
    """The images of a source that could not be read, each named once in the log. Used from several threads.

    Args:
      count: of images in the source.
      max_fraction: how many of them may be broken.
    """

    def __init__(self, count: int, max_fraction: float) -> None:
        self._count, self._max_fraction = count, max_fraction
        self._lock = Lock()
        self.reasons: dict[int, str] = {}
        """Why, by index."""

    def __len__(self) -> int:
        return len(self.reasons)

    def __contains__(self, index: int) -> bool:
        return index in self.reasons

    def add(self, index: int, reason: str) -> None:
        """Notes that an image is left out.

        Raises:
          DataError: there are more of them than `max_fraction`.
        """
        with self._lock:
            if index in self.reasons:
                return
            self.reasons[index] = reason
            log.warning("leaving out image %d: %s", index, reason)
        self.check(len(self.reasons))

    def remember(self, known: Iterable[Broken]) -> None:
        """Adds what was found, named and checked before, by the run that is continued."""
        self.reasons |= {int(index): reason for index, reason in known}

    def check(self, broken: int) -> None:
        """Raises a DataError for so many broken images, if they are too many."""
        if broken > self._max_fraction * self._count:
            raise too_many(self.reasons, self._count, self._max_fraction, broken)


def too_many(reasons: Mapping[int, str], count: int, max_fraction: float, broken: int | None = None) -> DataError:
    """What to say of too many broken images.

    Args:
      reasons: of those that are known.
      count: of all images.
      broken: how many are broken, if not all reasons are known.
    """
    first = next(iter(reasons.values()), "named in the log of the run that found it")
    return DataError(
        f"{len(reasons) if broken is None else broken} of {count} images cannot be read, more than "
        f"max_broken_fraction = {max_fraction:g} allows. The first: {first}. Mend the data set, or allow more"
    )


def found_by_any_host(reasons: Mapping[int, str]) -> dict[int, str]:
    """What all hosts together found broken. Each must call this, with what it found itself."""
    if jax.process_count() == 1:
        return dict(sorted(reasons.items()))
    text = np.frombuffer(json.dumps(list(reasons.items())).encode(), np.uint8)
    lengths = process_allgather(np.array(len(text)))
    texts = process_allgather(np.pad(text, (0, lengths.max() - len(text))))
    each = (json.loads(bytes(row[:length])) for row, length in zip(texts, lengths, strict=True))
    return dict(sorted((index, reason) for found in each for index, reason in found))
