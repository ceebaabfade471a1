"""What can be measured in the space of features, beside the map of it: a map can deceive."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from resnet_jax.analysis.neighbours import NEIGHBOURS, knn_predict
from resnet_jax.analysis.probe import held_out, probe_features
from resnet_jax.errors import DataError

SILHOUETTE_IMAGES = 5000
"""Images whose silhouettes are averaged, at most: each is compared with each, and 5,000 have 25 million distances,
0.1 GB."""


@dataclass(frozen=True)
class Numbers:
    """How well classes lie apart among features.

    Attributes:
      knn: the share of images whose class the nearest others vote for (leave one out).
      neighbours: that vote.
      probe: the share of images that a linear probe gets right. It is fitted to one half of each class and applied to
        the other, and the other way round; in each half its penalty is chosen on a part.
      silhouette: the mean over the images of (b - a) / max(a, b), from -1 to 1 (Rousseeuw 1987): a is the mean distance
        to the others of the class, b that to the nearest other class, Euclidean.
      silhouette_images: over which it is taken.
    """

    knn: float
    neighbours: int
    probe: float
    silhouette: float
    silhouette_images: int


def check_halves(labels: Int[np.ndarray, " N"]) -> None:
    """Raises a DataError where a probe cannot be fitted to either half of each class, and its penalty chosen there."""
    _, counts = np.unique(labels, return_counts=True)
    smaller, larger = (int(count) for count in np.sort(counts)[-2:])
    if larger < 4 or smaller < 2:
        raise DataError(
            f"the two largest classes have {larger} and {smaller} image{'s' * (smaller != 1)}. The linear probe beside "
            "a map is fitted to each half of the classes: it needs a class of at least 4 images and another of at "
            "least 2. Bring more images"
        )


def measure(features: Float[np.ndarray, "N D"], labels: Int[np.ndarray, " N"], seed: int = 0) -> Numbers:
    """Measures features of images of at least two classes.

    Args:
      seed: of the halves, and of the sample for the silhouette.

    Raises:
      DataError: fewer than two classes, or classes that are too small for halves.
    """
    from sklearn.metrics import silhouette_score

    voters = min(NEIGHBOURS, len(labels) - 1)
    voted = knn_predict(features, labels, neighbours=voters)
    half = held_out(labels, 0.5, seed)
    right = 0.0
    for fitted, tested in ((~half, half), (half, ~half)):
        found = probe_features(features[fitted], labels[fitted], features[tested], labels[tested], seed=seed)
        right += found.accuracy * tested.sum()
    sample = np.arange(len(labels))
    if len(sample) > SILHOUETTE_IMAGES:
        sample = np.sort(np.random.default_rng(seed).choice(sample, SILHOUETTE_IMAGES, replace=False))
    classes = len(np.unique(labels[sample]))
    silhouette = silhouette_score(features[sample], labels[sample]) if 1 < classes < len(sample) else float("nan")
    return Numbers(float(np.mean(voted == labels)), voters, float(right / len(labels)), float(silhouette), len(sample))
