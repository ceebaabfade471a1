"""The picture of detections: how many of them are right, at each share of the objects that are found."""

from pathlib import Path

from resnet_jax.analysis.colours import BLUE, GREEN, GREY, INK, VERMILION
from resnet_jax.display import in_figure
from resnet_jax.tasks.detect.coco import RECALLS, Judged

_COLOURS = (BLUE, GREEN, VERMILION)
_WIDTH, _HEIGHT = 5.6, 4.9  # inches of a curve


def plot_precision_recall(found: Judged, title: str, path: str | Path) -> None:
    """Draws precision against recall for boxes, and beside it for masks if there are any, as a PNG. It is the mean over
    the classes. The area below a curve is the average precision at its overlap."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    width = _WIDTH * len(found.kinds)
    figure = Figure(figsize=(width, _HEIGHT), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(in_figure(title), fontsize=min(13.0, 13 * width * 8.3 / len(title)), fontweight="bold")
    for axes, (kind, one) in zip(
        figure.subplots(1, len(found.kinds), squeeze=False)[0], found.kinds.items(), strict=True
    ):
        for colour, (overlap, curve) in zip(_COLOURS, one.curves.items(), strict=True):
            label = f"{overlap}: AP {100 * curve.mean():.1f} %"
            axes.plot(RECALLS, curve, color=colour, linewidth=1.8, label=label)
        axes.set(xlim=(0, 1), ylim=(0, 1.03))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xlabel(f"recall: found, of {sum(found.truth.objects.values()):,} objects", color=INK)
        axes.set_ylabel("precision: right, of all detections so far", color=INK)
        axes.set_title({"box": "boxes", "mask": "masks"}[kind], fontsize=11)
        axes.grid(color=GREY, alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="best", fontsize=9, framealpha=0.9, edgecolor="none")
    figure.savefig(path)
