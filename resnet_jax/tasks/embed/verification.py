"""Verification: whether two images are of one identity, told by the cosine of their embeddings.

The protocol is that of LFW (Huang et al. 2007) as insightface runs it (`arcface_torch/eval/verification.py`): the pairs
in ten parts, a threshold chosen on nine of them and judged on the tenth.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from resnet_jax.tasks.embed.ranking import ranks_of

FOLDS = 10
THRESHOLDS = np.arange(0, 4, 0.01)
"""Squared distances of unit vectors, as in insightface's code."""
FALSE_ACCEPT_RATES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
LEAST_ACCEPTED = 10
"""False accepts that a rate must leave, so that it can be measured."""
PAIRS, MOST_IMAGES = 6_000, 6_000
"""Pairs that are drawn from a set with labels, as many as LFW has; and images of which all pairs are compared."""


@dataclass(frozen=True)
class Curve:
    """The receiver operating characteristic of scores. A pair is accepted whose score is at least the threshold.

    Attributes:
      thresholds: from the highest score to the lowest.
      accepted: share of the pairs of one identity that are accepted, TAR.
      false: share of the other pairs that are accepted, FAR.
      others: number of pairs of different identities.
    """

    thresholds: Float[np.ndarray, " T"]
    accepted: Float[np.ndarray, " T"]
    false: Float[np.ndarray, " T"]
    others: int

    def at(self, rate: float) -> tuple[float, float] | None:
        """(TAR, threshold) where FAR is the largest that does not exceed `rate`. None if fewer than `LEAST_ACCEPTED`
        false accepts are allowed, so that the set has too few pairs to say."""
        if round(rate * self.others, 6) < LEAST_ACCEPTED:
            return None
        last = int(np.searchsorted(self.false, rate, side="right")) - 1
        if last < 0:  # even the highest score is a false accept too many
            return 0.0, float(np.nextafter(self.thresholds[0], np.inf))
        return float(self.accepted[last]), float(self.thresholds[last])

    @property
    def equal_error(self) -> float:
        """The rate at which as many other pairs are accepted as pairs of one identity are refused."""
        gap = np.abs(self.false - (1 - self.accepted))
        best = int(np.argmin(gap))
        return float((self.false[best] + 1 - self.accepted[best]) / 2)


def curve(scores: Float[np.ndarray, " P"], same: Bool[np.ndarray, " P"]) -> Curve:
    """The curve of pairs with these scores. Equal scores are accepted together."""
    order = np.argsort(-scores, kind="stable")
    scores, same = scores[order], same[order]
    ends = np.flatnonzero(np.append(np.diff(scores) != 0, True))
    hits, number = np.cumsum(same)[ends], int(same.sum())
    return Curve(
        scores[ends], hits / max(number, 1), (ends + 1 - hits) / max(len(same) - number, 1), len(same) - number
    )


def ten_folds(scores: Float[np.ndarray, " P"], same: Bool[np.ndarray, " P"]) -> tuple[float, float]:
    """Mean and standard deviation of the accuracy over the ten parts, in the order of the pairs.

    Args:
      scores: cosines.
    """
    squares = 2 - 2 * scores
    right = (squares[:, None] < THRESHOLDS) == same[:, None]
    folds = np.array_split(np.arange(len(same)), FOLDS)
    accuracies = []
    for fold in folds:
        rest = np.ones(len(same), bool)
        rest[fold] = False
        accuracies.append(right[fold, np.argmax(right[rest].mean(axis=0))].mean())
    return float(np.mean(accuracies)), float(np.std(accuracies))


def draw_pairs(
    labels: Int[np.ndarray, " N"], number: int = PAIRS
) -> tuple[Int[np.ndarray, "P 2"], Bool[np.ndarray, " P"]]:
    """Pairs of a set with labels, half of them of one identity, the same every time. The ten parts have the same share.

    No pair is drawn twice. A set of few images has fewer pairs.
    """
    rng = np.random.default_rng(0)
    first, second = np.triu_indices(len(labels), 1)
    same = labels[first] == labels[second]
    half = min(number // 2, int(same.sum()), int((~same).sum()))
    half -= half % FOLDS if half >= FOLDS else 0
    chosen = [np.array_split(rng.permutation(np.flatnonzero(kind))[:half], FOLDS) for kind in (same, ~same)]
    pairs = np.concatenate([part for parts in zip(*chosen, strict=True) for part in parts])
    return np.stack([first[pairs], second[pairs]], axis=1), same[pairs]


def identification(embeddings: Float[np.ndarray, "N E"], labels: Int[np.ndarray, " N"]) -> tuple[float, float]:
    """(rank-1 identification rate, mean average precision): each image is a query once, all others are ranked by their
    cosine to it. Images that are the only ones of their identity are no queries."""
    first, average = [], []
    for start in range(0, len(labels), 512):
        block = embeddings[start : start + 512] @ embeddings.T
        block[np.arange(len(block)), start + np.arange(len(block))] = -np.inf
        for query, row in enumerate(block, start):
            others = np.flatnonzero(labels == labels[query])
            others = others[others != query]
            if len(others):
                ranks, precisions = ranks_of(row, others)
                first.append(ranks[0] == 1)
                average.append(precisions.mean())
    return float(np.mean(first)), float(np.mean(average))


def looked_at(labels: Int[np.ndarray, " N"]) -> Int[np.ndarray, " M"]:
    """The images of which all pairs are compared: all, or of a large set those of some identities, always the same."""
    if len(labels) <= MOST_IMAGES:
        return np.arange(len(labels))
    identities, counts = np.unique(labels, return_counts=True)
    order = np.random.default_rng(0).permutation(len(identities))
    number = max(2, int(np.sum(np.cumsum(counts[order]) <= MOST_IMAGES)))
    return np.flatnonzero(np.isin(labels, identities[order[:number]]))
