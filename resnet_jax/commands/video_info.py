"""Words for `data info` and `data check` about how long videos are."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resnet_jax.data.sources import Source
    from resnet_jax.data.video.survey import Length

SAMPLE = 64
"""Videos of a split that `data info` looks at: to open all would take long."""


def lengths_in_words(lengths: Sequence["Length"]) -> str:
    """Frames, seconds and frames per second, each from the least to the most."""
    frames = sorted(one.frames for one in lengths)
    seconds = sorted(one.seconds for one in lengths)
    rates = [one.frames / one.seconds for one in lengths if one.seconds]
    per_second = f", {_span(f'{min(rates):.4g}', f'{max(rates):.4g}')} frames a second" if rates else ""
    return (
        f"{_span(f'{frames[0]:,}', f'{frames[-1]:,}')} frames, half have at least {frames[len(frames) // 2]:,}; "
        f"{_span(f'{seconds[0]:.3g}', f'{seconds[-1]:.3g}')} seconds{per_second}"
    )


def sample_in_words(source: "Source") -> str:
    """The lengths of some videos, spread over the split."""
    import numpy as np

    from resnet_jax.data.video.survey import length_of
    from resnet_jax.errors import ImageError

    spread = np.unique(np.linspace(0, len(source) - 1, SAMPLE).astype(int)).tolist() if len(source) else []
    lengths, broken = [], 0
    for index in spread:
        try:
            lengths.append(length_of(source[index]["video"]))
        except ImageError:
            broken += 1
    cannot = f"; {broken} cannot be read, which `data check` names" if broken else ""
    return (lengths_in_words(lengths) if lengths else "none can be read") + f" (of {len(spread)} videos{cannot})"


def _span(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"
