"""What can be measured in the space of features, beside the map of it: a map can deceive."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from resnet_jax.analysis.neighbours import NEIGHBOURS, knn_predict
from resnet_jax.analysis.probe import held_out, probe_features

SILHOUETTE_IMAGES = 5000
"""Images whose silhouettes are averaged, at most: every one is compared with every other."""


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


def measure(features: Float[np.ndarray, "N D"], labels: Int[np.ndarray, " N"], seed: int = 0) -> Numbers:
    """Measures features of images of at least two classes.

    Args:
      seed: of the halves, and of the sample for the silhouette.

    Raises:
      DataError: fewer than two classes, or no class with two images in each half.
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
