"""The counts of a detailed evaluation, and the results that follow from them. NumPy only."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

CALIBRATION_BINS = 15
"""Number of bins of equal width over (0, 1], as in Guo et al. 2017."""


@dataclass(frozen=True, kw_only=True)
class EvalReport:
    """One pass over a split in which every image counted once.

    Attributes:
      loss, top1, top5: means over all images; accuracies as fractions.
      count: how many images were seen.
      confusion: images by true class (row) and predicted class (column).
      calibration: for each bin of the probability of the predicted class, how many images fell into it, the sum of
        those probabilities, and how many of the images were right.
    """

    loss: float
    top1: float
    top5: float
    count: int
    confusion: Int[np.ndarray, "K K"]
    calibration: Float[np.ndarray, "3 bins"]

    @property
    def per_class(self) -> Float[np.ndarray, " K"]:
        """Accuracy of each class as a fraction (its recall); nan for a class that no image has."""
        images = self.confusion.sum(axis=1)
        return np.where(images > 0, np.diag(self.confusion) / np.maximum(images, 1), np.nan)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error (Guo et al. 2017, arXiv:1706.04599, equation 3), as a fraction: the distance
        between the accuracy of a bin and the mean probability that the network gave in it, averaged over the images.
        """
        _, probability, right = self.calibration
        return float(np.abs(right - probability).sum() / self.count)

    def most_confused(self, pairs: int) -> list[tuple[int, int, int]]:
        """The most frequent mistakes as `(true class, predicted class, images)`, the worst first."""
        mistakes = self.confusion - np.diag(np.diag(self.confusion))
        worst = np.argsort(-mistakes, axis=None, kind="stable")[:pairs]
        found = [
            (int(i), int(j), int(mistakes[i, j])) for i, j in zip(*np.unravel_index(worst, mistakes.shape), strict=True)
        ]
        return [pair for pair in found if pair[2]]
