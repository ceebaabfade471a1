"""The results of a segmentation, from the confusion matrix of a whole split. NumPy only."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int


def iou(confusion: Int[np.ndarray, "K K"]) -> Float[np.ndarray, " K"]:
    """Intersection over union of each class, as a fraction; nan for a class that is neither there nor predicted.

    It is torchvision's (`references/segmentation/utils.py`, `ConfusionMatrix.compute`).

    Args:
      confusion: pixels by true class (row) and predicted class (column).
    """
    both = np.diag(confusion).astype(np.float64)
    either = confusion.sum(axis=0) + confusion.sum(axis=1) - both
    return np.divide(both, either, out=np.full(len(both), np.nan), where=either > 0)


def results(confusion: Int[np.ndarray, "K K"], loss: float, class_names: Sequence[str]) -> dict[str, float]:
    """The numbers of an evaluation: `loss`, `miou`, `pixel_accuracy`, and `iou/CLASS` of each class that occurs.

    `miou` is the mean over the classes that are there or predicted, the background among them. torchvision's mean has
    no value (nan) where a class is neither; else both are the same. It is taken once over the whole split: a mean over
    images is another number.
    """
    of_class = iou(confusion)
    pixels = confusion.sum()
    known = ~np.isnan(of_class)
    return {
        "loss": loss,
        "miou": float(of_class[known].mean()) if known.any() else 0.0,
        "pixel_accuracy": float(np.trace(confusion) / max(pixels, 1)),
        **{f"iou/{class_names[label]}": float(of_class[label]) for label in np.flatnonzero(known).tolist()},
    }
