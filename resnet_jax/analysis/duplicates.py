"""Images of one split that are in another as well, or nearly: those whose features are nearly equal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8

from resnet_jax.analysis.search import nearest
from resnet_jax.analysis.store import Features, check_belong
from resnet_jax.errors import DataError

THRESHOLD = 0.99
NEAREST = 10
"""Images of the first split that are looked at for each image of the second, at most."""
SAME_PIXELS = 1.0
"""Pixels (0 to 255) that differ by no more than this on average are called the same: another JPEG of the same pixels
may differ by as much."""
TOGETHER = 256  # pairs whose pixels are compared together

Images = Callable[[Sequence[int]], UInt8[np.ndarray, "n S S C"]]
"""From places in a split to its images, as the network sees them."""


@dataclass(frozen=True)
class Pair:
    """Two images whose features are nearly equal.

    Attributes:
      first, second: their places in the two splits.
      cosine: of their features.
      difference: by how much their pixels (0 to 255) differ on average, as the network sees them.
    """

    first: int
    second: int
    cosine: float
    difference: float

    @property
    def same_pixels(self) -> bool:
        return self.difference <= SAME_PIXELS


@dataclass(frozen=True)
class Duplicates:
    """The pairs above a threshold, the most similar first.

    Attributes:
      median, rare, largest: of all images of the second split, the cosine with the nearest of the first: the median,
        what one in a hundred exceeds, and the largest. A threshold is well above what is usual.
      cut_off: images with more partners than were looked at.
    """

    pairs: tuple[Pair, ...]
    threshold: float
    median: float
    rare: float
    largest: float
    cut_off: int


def duplicates(
    first: Features, second: Features, stage: str, images: tuple[Images, Images], *, threshold: float = THRESHOLD
) -> Duplicates:
    """Compares every image of the second split with every image of the first.

    Args:
      first, second: of one network; the array of the first is read into memory.
      images: give the pixels of pairs.

    Raises:
      ConfigError: a stage that is not there.
      DataError: features of two networks, or twice those of the same split.
    """
    check_belong(first, second, ("weights", "network", "preparation_of_images", "kind_of_features"))
    if first.of["data"] == second.of["data"]:
        raise DataError(
            f"{first.folder} and {second.folder} hold features of the same images, which are all there twice; name two "
            "splits"
        )
    known, queries = (np.asarray(x[stage]).reshape(len(x.labels), -1) for x in (first, second))
    count = min(NEAREST, len(known))
    places, cosines = nearest(known, queries, neighbours=count)
    above = cosines >= threshold
    rows, ranks = np.nonzero(above)
    partners = places[rows, ranks]
    difference = [
        value
        for start in range(0, len(rows), TOGETHER)
        for value in _differences(images, partners[start : start + TOGETHER], rows[start : start + TOGETHER])
    ]
    pairs = [
        Pair(int(one), int(two), float(cosine), float(apart))
        for one, two, cosine, apart in zip(partners, rows, cosines[rows, ranks], difference, strict=True)
    ]
    top = cosines[:, 0]
    return Duplicates(
        pairs=tuple(sorted(pairs, key=lambda pair: (-pair.cosine, pair.difference))),
        threshold=threshold,
        median=float(np.median(top)),
        rare=float(np.quantile(top, 0.99)),
        largest=float(top.max()),
        cut_off=int(above[:, -1].sum()) if count < len(known) else 0,
    )


def _differences(
    images: tuple[Images, Images], first: Int[np.ndarray, " n"], second: Int[np.ndarray, " n"]
) -> np.ndarray:
    ours, theirs = images[0](first.tolist()), images[1](second.tolist())
    return np.abs(ours.astype(np.int16) - theirs).mean(axis=(1, 2, 3))
