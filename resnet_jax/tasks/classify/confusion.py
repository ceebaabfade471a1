"""The picture of a detailed evaluation: which classes are confused, and whether the probabilities can be trusted."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from resnet_jax.display import in_figure
from resnet_jax.tasks.classify.report import EvalReport

if TYPE_CHECKING:  # matplotlib is imported where a picture is made: training itself does not need it
    from matplotlib.axes import Axes

FEW_CLASSES = 30  # up to this many classes have names on both axes, and their cells have numbers
PAIRS = 12
BLUE, RED, GREY = "#4c78a8", "#e4572e", "#6b7280"


def plot_confusion(report: EvalReport, class_names: Sequence[str], path: str | Path, title: str) -> None:
    """Draws the confusion matrix, the reliability diagram and the commonest mistakes as a PNG.

    Args:
      class_names: in the order of the labels.
      path: the file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 8.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(in_figure(title), fontsize=14, fontweight="bold")
    matrix, side = figure.subfigures(1, 2, width_ratios=[2.2, 1])  # type: ignore[misc]
    _draw_matrix(matrix.subplots(), report, class_names)
    reliability, mistakes = side.subplots(2, 1)
    _draw_reliability(reliability, report)
    _list_mistakes(mistakes, report, class_names)
    figure.savefig(path)


def _draw_matrix(axes: "Axes", report: EvalReport, class_names: Sequence[str]) -> None:
    images = report.confusion.sum(axis=1, keepdims=True)
    shares = report.confusion / np.maximum(images, 1)
    # The square root makes the few mistakes visible beside the many hits.
    picture = axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    bar = axes.figure.colorbar(picture, ax=axes, shrink=0.8, pad=0.02)
    ticks = np.array([0, 0.01, 0.05, 0.2, 0.5, 1])
    bar.set_ticks(list(np.sqrt(ticks)), labels=[f"{tick:.0%}" for tick in ticks])
    bar.set_label("share of the true class (square-root scale)")
    if len(class_names) > FEW_CLASSES:
        return
    places = range(len(class_names))
    long = max(map(len, class_names)) > 3
    names = [in_figure(name) for name in class_names]
    axes.set_xticks(places, names, rotation=90 if long else 0)
    axes.set_yticks(places, names)
    axes.tick_params(length=0, labelsize=9)
    for i, j in zip(*np.nonzero(report.confusion), strict=True):
        color = "white" if shares[i, j] > 0.3 else "#111827"
        axes.text(j, i, str(report.confusion[i, j]), ha="center", va="center", fontsize=9, color=color)


def _draw_reliability(axes: "Axes", report: EvalReport) -> None:
    from matplotlib.ticker import PercentFormatter

    images, probability, right = report.calibration
    bins = len(images)
    edges = np.arange(bins) / bins
    seen = images > 0
    accuracy = right[seen] / images[seen]
    axes.bar(edges[seen], accuracy, width=1 / bins, align="edge", color=BLUE, edgecolor="white")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
    axes.plot(probability[seen] / images[seen], accuracy, "o", color=RED, markersize=4)
    for left, height, share in zip(edges[seen], accuracy, images[seen] / report.count, strict=True):
        if share >= 0.005:
            axes.text(left + 0.5 / bins, height + 0.015, f"{100 * share:.0f}", ha="center", fontsize=7.5, color=GREY)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.09)
    axes.set_xlabel("probability of the predicted class")
    axes.set_ylabel("accuracy")
    axes.set_title(f"calibration error {report.calibration_error:.2%}\n(over the bars: % of the images)", fontsize=10)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.spines[["top", "right"]].set_visible(False)


def _list_mistakes(axes: "Axes", report: EvalReport, class_names: Sequence[str]) -> None:
    axes.axis("off")
    axes.set_title("commonest mistakes", fontsize=11)
    pairs = report.most_confused(PAIRS)
    images = report.confusion.sum(axis=1)
    lines = [
        f"{in_figure(class_names[i][:22])} → {in_figure(class_names[j][:22])}   {count} of {images[i]}"
        for i, j, count in pairs
    ] or ["none"]
    axes.text(0.02, 0.97, "\n".join(lines), va="top", fontsize=9.5, linespacing=1.5, transform=axes.transAxes)
