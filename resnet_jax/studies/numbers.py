"""Means, spreads and intervals over a few seeds, and straight lines."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean over seeds, and the interval in which the true mean lies with a confidence of 95 %.

    Attributes:
      deviation: the standard deviation over the seeds; None of one seed.
      half: half the width of the interval, by Student's t; None of one seed.
    """

    mean: float
    deviation: float | None
    half: float | None
    count: int

    @property
    def low(self) -> float:
        return -math.inf if self.half is None else self.mean - self.half

    @property
    def high(self) -> float:
        return math.inf if self.half is None else self.mean + self.half

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval lies above or below 0, else 0."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


def interval(values: Sequence[float]) -> Interval:
    """The mean of independent values, with its interval: `mean ± t(0.975, n - 1) * deviation / sqrt(n)`."""
    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return Interval(mean, None, None, count)
    from scipy.special import stdtrit

    deviation = statistics.stdev(values)
    quantile = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2))
    return Interval(mean, deviation, quantile * deviation / math.sqrt(count), count)


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Of the straight line through the points, by least squares."""
    middle = statistics.fmean(xs)
    return sum((x - middle) * y for x, y in zip(xs, ys, strict=True)) / sum((x - middle) ** 2 for x in xs)
