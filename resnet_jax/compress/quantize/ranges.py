"""What calibration saw of a tensor, and the range that follows from it."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from resnet_jax.compress.quantize.scales import largest_activation, scale_and_zero_point
from resnet_jax.config import QuantizeConfig

HALF = 1024  # bins on each side of 0
STEPS = 100  # ends of a range that the least squares try


class Seen(NamedTuple):
    """A tensor in numbers. A bin is `2**exponent / HALF` wide. The number of a bin, counted from 0, times its width is
    where it begins; the first of `counts` has the number `-HALF`.

    Attributes:
      zeros: how many numbers are 0. They are in `counts` too.
    """

    low: Float[Array, ""]
    high: Float[Array, ""]
    exponent: Int[Array, ""]
    counts: Int[Array, " bins"]
    zeros: Int[Array, ""]


def look_at(x: Float[Array, "..."]) -> Seen:
    """Counts the numbers of a tensor. Their width is a power of two, so that histograms can be added exactly."""
    x = x.astype(jnp.float32).reshape(-1)
    largest = jnp.max(jnp.abs(x))
    _, exponent = jnp.frexp(largest)
    exponent = jnp.where(jnp.isfinite(largest), exponent, 0)
    places = jnp.clip(jnp.floor(jnp.ldexp(x, -exponent) * HALF) + HALF, 0, 2 * HALF - 1).astype(jnp.int32)
    counts = jnp.zeros(2 * HALF, jnp.int32).at[places].add(1)
    return Seen(jnp.min(x), jnp.max(x), exponent, counts, jnp.sum(x == 0))


@dataclass
class Histogram:
    """All batches of a tensor together, in one pass: where a batch has larger numbers, bins are put together."""

    low: float = math.inf
    high: float = -math.inf
    exponent: int = -1000
    counts: np.ndarray = field(default_factory=lambda: np.zeros(2 * HALF))
    zeros: int = 0

    def add(self, seen: Seen) -> None:
        exponent = max(self.exponent, int(seen.exponent))
        self.counts = _coarser(self.counts, exponent - self.exponent) + _coarser(
            np.asarray(seen.counts, np.float64), exponent - int(seen.exponent)
        )
        self.exponent = exponent
        self.low, self.high = min(self.low, float(seen.low)), max(self.high, float(seen.high))
        self.zeros += int(seen.zeros)

    @property
    def width(self) -> float:
        return 2.0**self.exponent / HALF

    def range(self, config: QuantizeConfig) -> tuple[float, float]:
        """The ends of the range that is to be represented."""
        match config.method:
            case "minmax":
                return self.low, self.high
            case "percentile":
                return self._percentiles(config.percentile / 100)
            case "mse":
                return self._least_squares(config.activation_bits)

    def _percentiles(self, share: float) -> tuple[float, float]:
        edges = (np.arange(2 * HALF + 1) - HALF) * self.width
        below = np.concatenate([[0], np.cumsum(self.counts)]) / self.counts.sum()
        low = edges[np.searchsorted(below, 1 - share, side="right") - 1]
        high = edges[np.searchsorted(below, share, side="left")]
        return max(float(low), self.low), min(float(high), self.high)

    def _least_squares(self, bits: int) -> tuple[float, float]:
        """The range with the least squared error, among hundredths of the whole range: first the upper end, then the
        lower, and both again. PyTorch's `HistogramObserver` looks for the same range."""
        counts, middles = self.counts.copy(), (np.arange(2 * HALF) - HALF + 0.5) * self.width
        counts[HALF] -= self.zeros  # 0 has no error
        middles = np.clip(middles[counts > 0], self.low, self.high)
        counts = counts[counts > 0]

        def error(low: float, high: float) -> float:
            scale, zero_point = scale_and_zero_point(low, high, bits)
            places = np.clip(np.rint(middles / scale) + zero_point, 0, largest_activation(bits))
            return float(np.sum(counts * ((places - zero_point) * scale - middles) ** 2))

        low, high = min(self.low, 0.0), max(self.high, 0.0)
        parts = np.arange(STEPS, 0, -1) / STEPS  # the whole range first, which stays where others are no better
        for _ in range(2):
            high = min((part * max(self.high, 0.0) for part in parts), key=lambda end: error(low, end))
            low = min((part * min(self.low, 0.0) for part in parts), key=lambda end: error(end, high))
        return low, high


def _coarser(counts: np.ndarray, doublings: int) -> np.ndarray:
    """The counts in bins that are `2**doublings` times as wide."""
    places = (np.arange(2 * HALF) - HALF) >> min(doublings, 32)
    return np.bincount(places + HALF, weights=counts, minlength=2 * HALF)
