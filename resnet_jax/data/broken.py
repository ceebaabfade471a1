"""Counting images that cannot be read."""

import logging
from threading import Lock

from resnet_jax.errors import DataError, ImageError

log = logging.getLogger(__name__)


class BrokenImages:
    """The images of a source that could not be read, each named once in the log. Used from several threads.

    Args:
      count: of images in the source.
      max_fraction: how many of them may be broken.
    """

    def __init__(self, count: int, max_fraction: float) -> None:
        self._count, self._max_fraction = count, max_fraction
        self._reasons: dict[int, str] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._reasons)

    def __contains__(self, index: int) -> bool:
        return index in self._reasons

    def add(self, index: int, error: ImageError) -> None:
        """Notes that an image is left out.

        Raises:
          DataError: there are more of them than `max_fraction`.
        """
        with self._lock:
            if index in self._reasons:
                return
            self._reasons[index] = str(error)
            log.warning("leaving out image %d: %s", index, error)
        self.check(len(self._reasons))

    def check(self, broken: int) -> None:
        """Raises a DataError for so many broken images, if they are too many."""
        if broken > self._max_fraction * self._count:
            raise self.too_many(broken)

    def too_many(self, broken: int) -> DataError:
        """What to say of so many broken images."""
        first = next(iter(self._reasons.values()), "named in the log of the run that found it")
        return DataError(
            f"{broken} of {self._count} images cannot be read, more than max_broken_fraction = "
            f"{self._max_fraction:g} allows. The first: {first}. Mend the data set, or allow more"
        )
