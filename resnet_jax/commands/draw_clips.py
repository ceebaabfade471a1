"""A picture of what a network sees on videos over time: thumbnails, and the probabilities of classes under them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from resnet_jax.commands.sheet import cut
from resnet_jax.display import in_figure

if TYPE_CHECKING:
    from resnet_jax.run.clips import OverTime

MOST = 6
"""Videos on a picture, at most."""
CLASSES = 8
"""Strips under a video: the most probable classes of any of its clips."""
_THUMB, _STRIP, _LEFT, _GAP, _HEAD = 0.8, 0.2, 2.1, 0.65, 0.75  # inches
_LEAST = 5.5  # inches of all thumbnails of a video together


def draw_clips(videos: "Sequence[OverTime]", class_names: Sequence[str], title: str, note: str, path: Path) -> None:
    """Draws for each video the middle frames of its clips, and below a strip for each of its classes: the darker, the
    more probable."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    strips = min(CLASSES, len(class_names))
    across = max(_LEAST, *(_THUMB * len(one.clips) for one in videos))
    each = _THUMB + _STRIP * strips + _GAP
    width, height = _LEFT + across + 0.25, _HEAD + each * len(videos)
    figure = Figure(figsize=(width, height), dpi=120)
    FigureCanvasAgg(figure)
    figure.text(0.12 / width, 1 - 0.12 / height, in_figure(title), fontsize=12, fontweight="bold", va="top")
    figure.text(0.12 / width, 1 - 0.4 / height, in_figure(note), fontsize=8, color="#4b5563", va="top")
    for place, one in enumerate(videos):
        top = height - _HEAD - each * place
        wide = across / len(one.clips)
        for number, frame in enumerate(one.middles):
            left = _LEFT + number * wide + (wide - _THUMB) / 2
            axes = figure.add_axes((left / width, (top - _THUMB) / height, _THUMB * 0.96 / width, _THUMB / height))
            axes.imshow(frame.squeeze(), cmap="gray", vmin=0, vmax=255)
            axes.axis("off")
        best = np.argsort(-one.clips.max(axis=0), kind="stable")[:strips]
        best = best[np.argsort(-one.video[best], kind="stable")]
        bottom = top - _THUMB - 0.05 - _STRIP * strips
        axes = figure.add_axes((_LEFT / width, bottom / height, across / width, _STRIP * strips / height))
        axes.imshow(one.clips[:, best].T, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        for row, column in np.ndindex(strips, len(one.clips)):
            value = one.clips[column, best[row]]
            colour = "white" if value > 0.5 else "#111827"
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=colour)
        shown = [in_figure(cut(class_names[i], 22)) for i in best]
        axes.set_yticks(range(strips), shown, fontsize=8)
        ticks = [f"{start:.1f} s" for start in one.start]
        axes.set_xticks(range(len(one.clips)), ticks, fontsize=7)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        name = in_figure(cut(one.path.name, 22))
        figure.text((_LEFT - 0.12) / width, (top - _THUMB / 2) / height, name, fontsize=9, ha="right", va="center")
    figure.savefig(path)
