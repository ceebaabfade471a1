"""Images of all sizes on a few canvases: a program is compiled for each canvas, and not for each size."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from resnet_jax.data.boxes import detection_shape
from resnet_jax.data.sources import Source, read_size
from resnet_jax.data.transforms import resized_shape
from resnet_jax.errors import ImageError

Size = tuple[int, int]
"""Height and width in pixels."""

_MOST_KINDS = 256  # sizes that are told apart before merging; the time grows with their cube


class Canvas(NamedTuple):
    """Height and width of a canvas, and the indices of the images that lie on it, in rising order."""

    size: Size
    indices: list[int]


class Canvases:
    """The canvases of a split.

    Args:
      base: pixels that the shorter side of every image is resized to; None = images keep their size.
      longest: pixels that the longer side has at most, even if the shorter one gets fewer than `base`, as torchvision
        resizes images for detection; None = any number.
      exif: of photographs turned upright.
      multiple: height and width of a canvas are multiples of this.
      threads: that read headers of files.
      forgive: an image that cannot be read has one pixel, as training leaves it out.
    """

    def __init__(
        self,
        source: Source,
        *,
        base: int | None,
        longest: int | None = None,
        exif: bool = False,
        multiple: int = 32,
        threads: int = 8,
        forgive: bool = False,
    ) -> None:
        self._source, self._base, self._longest, self._exif, self._forgive = source, base, longest, exif, forgive
        self._multiple, self._threads = multiple, threads

    @cached_property
    def sizes(self) -> list[Size]:
        """Height and width of every image after resizing. They are read once, from the headers of the files if the
        source has `image_size`; otherwise the images are decoded.

        Raises:
          ImageError: an image that cannot be read.
        """

        def size_of(index: int) -> Size:
            try:
                size = read_size(self._source, index, exif=self._exif)
            except ImageError:
                if not self._forgive:
                    raise
                return (1, 1)
            if self._base is None:
                return size
            if self._longest is not None:
                return detection_shape(size, self._base, self._longest)
            return resized_shape(size, self._base)

        with ThreadPoolExecutor(self._threads) as pool:
            return list(pool.map(size_of, range(len(self._source))))

    def groups(self, most: int = 4) -> list[Canvas]:
        """At most `most` canvases for all images of the split, see `group`."""
        return group(self.sizes, most, self._multiple)

    def padding(self, canvases: Sequence[Canvas]) -> float:
        """The share of the pixels of these canvases that is padding."""
        whole = sum(height * width * len(indices) for (height, width), indices in canvases)
        return 1 - sum(height * width for height, width in self.sizes) / max(whole, 1)


def group(sizes: Sequence[Size], most: int, multiple: int = 32) -> list[Canvas]:
    """Spreads images over at most `most` canvases with little padding, the small canvases first.

    Every size begins with a canvas of its own. Then the two canvases whose union adds the least padding are merged,
    until few enough are left. At last every image moves to the smallest canvas that holds it. The result depends only
    on the sizes.
    """
    needed = np.array(sizes, np.int64).reshape(-1, 2)
    kinds, counts = _kinds(needed, multiple)
    while len(kinds) > most:
        i, j = np.unravel_index(np.argmin(_added(kinds, counts)), (len(kinds),) * 2)
        kinds[i], counts[i] = np.maximum(kinds[i], kinds[j]), counts[i] + counts[j]
        kinds, counts = np.delete(kinds, j, axis=0), np.delete(counts, j)
    canvases = sorted({(int(h), int(w)) for h, w in kinds}, key=lambda size: (size[0] * size[1], size))
    fits = (needed[:, None, :] <= np.array(canvases, np.int64).reshape(1, -1, 2)).all(axis=2)
    chosen = fits.argmax(axis=1) if len(needed) else np.zeros(0, int)  # the first that holds it is the smallest
    groups = [Canvas(size, np.flatnonzero(chosen == number).tolist()) for number, size in enumerate(canvases)]
    return [canvas for canvas in groups if canvas.indices]


def _kinds(needed: np.ndarray, multiple: int) -> tuple[np.ndarray, np.ndarray]:
    """The different sizes, rounded up to a multiple, and how many images have each."""
    step = multiple
    while True:
        kinds, counts = np.unique(-(-needed // step) * step, axis=0, return_counts=True)
        if len(kinds) <= _MOST_KINDS:
            return kinds, counts
        step += multiple


def _added(kinds: np.ndarray, counts: np.ndarray) -> Float[np.ndarray, "K K"]:
    """The padded pixels that merging two canvases would add; infinite but above the diagonal."""
    areas = kinds.prod(axis=1) * counts
    union = np.maximum(kinds[:, None], kinds[None]).prod(axis=2) * (counts[:, None] + counts[None])
    added = (union - areas[:, None] - areas[None]).astype(float)
    added[np.tril_indices(len(kinds))] = np.inf
    return added
