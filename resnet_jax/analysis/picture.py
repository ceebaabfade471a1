"""The picture of a probe: a group of bars for each stage."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from resnet_jax.analysis.colours import BLUE, GREY, INK, ORANGE, SKY, VERMILION
from resnet_jax.analysis.probe import Probe
from resnet_jax.display import in_figure

WIDTH = 0.2  # of a bar; stages are 1 apart


def plot_probe(result: Probe, path: str | Path) -> None:
    """Draws the accuracies of a probe on the test set as a PNG. The whiskers are one standard error long."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    stages = [one.stage for one in result.stages]
    bars = [
        ("linear probe", BLUE, [one.accuracy for one in result.stages]),
        (f"{result.neighbours} nearest neighbours", SKY, [one.knn_accuracy for one in result.stages]),
    ]
    if result.random:
        bars += [
            ("untrained: linear probe", VERMILION, [one.accuracy for one in result.random]),
            (f"untrained: {result.neighbours} nearest neighbours", ORANGE, [one.knn_accuracy for one in result.random]),
        ]
    figure = Figure(figsize=(max(6.5, 1.5 + 1.4 * len(stages)), 4.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for place, (label, colour, values) in enumerate(bars):
        _draw(axes, np.arange(len(stages)) + (place - (len(bars) - 1) / 2) * WIDTH, values, colour, label, result)
    line = axes.axhline(result.most_frequent, color=GREY, linewidth=1, linestyle="--", zorder=0)
    line.set_label("the most frequent class, always")
    axes.set_xticks(range(len(stages)), [f"{one.stage}\n{one.features:,}" for one in result.stages])
    axes.set_xlabel("stage, and the number of its features")
    axes.set_ylabel(f"accuracy on {result.test_images:,} test images")
    axes.set_ylim(0, 1.1)
    axes.set_yticks(np.arange(0, 1.01, 0.2))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.spines[["top", "right"]].set_visible(False)
    title = in_figure(f"{result.title}, on {result.data}")
    axes.set_title(title, fontsize=min(12.0, 12 * 75 / len(title)), fontweight="bold", loc="left")
    figure.legend(loc="outside lower center", ncols=3 if result.random else 2, fontsize=8.5, frameon=False)
    figure.savefig(path)


def _draw(axes, places, values: Sequence[float], colour: str, label: str, result: Probe) -> None:  # type: ignore[no-untyped-def]
    heights = np.nan_to_num(np.asarray(values))
    errors = np.sqrt(heights * (1 - heights) / result.test_images)
    axes.bar(places, heights, width=WIDTH * 0.92, color=colour, label=label)
    axes.errorbar(places, heights, yerr=errors, fmt="none", ecolor=INK, elinewidth=0.8)
    for place, value, error in zip(places, values, errors, strict=True):
        text, size = (f"{100 * value:.0f}", 7.5) if np.isfinite(value) else ("not finite", 6.5)
        rotation = 0 if np.isfinite(value) else 90
        axes.text(place, np.nan_to_num(value) + error + 0.012, text, ha="center", fontsize=size, rotation=rotation)
