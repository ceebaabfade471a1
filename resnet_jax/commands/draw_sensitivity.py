"""The picture of a sensitivity: what it costs to quantise each layer alone."""

from collections.abc import Sequence
from pathlib import Path

from resnet_jax.analysis.colours import BLUE, GREY, INK, VERMILION
from resnet_jax.compress.quantize.sensitivity import ALL, Cost
from resnet_jax.display import in_figure

ROW = 0.2  # inches


def draw_sensitivity(costs: Sequence[Cost], title: str, images: int, path: Path) -> None:
    """Draws two bars for each layer as a PNG, the first layer at the top."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(9, 1.9 + ROW * len(costs)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    errors, changes = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    places = range(len(costs))
    colours = [VERMILION if cost.name == ALL else BLUE for cost in costs]
    errors.barh(places, [100 * cost.error for cost in costs], color=colours, height=0.75)
    changes.barh(places, [100 * cost.changed for cost in costs], color=colours, height=0.75)
    for axes, values in ((errors, [cost.error for cost in costs]), (changes, [cost.changed for cost in costs])):
        for place, value in zip(places, values, strict=True):
            axes.annotate(
                f"{100 * value:.2f}", (100 * value, place), (3, 0), textcoords="offset points", va="center",
                fontsize=7, color=INK,
            )  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(PercentFormatter())
        axes.tick_params(axis="x", labelsize=8)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=GREY, alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(0, max(1e-3, 112 * max(values)))
    errors.set_yticks(places, [in_figure(cost.name) for cost in costs], fontsize=8)
    errors.set_ylim(len(costs) - 0.4, -0.6)
    errors.set_xlabel("error of the logits, relative to them", fontsize=9)
    changes.set_xlabel("images that get another class", fontsize=9)
    figure.suptitle(in_figure(title), fontsize=min(12.0, 12 * 80 / len(title)), fontweight="bold", x=0.01, ha="left")
    figure.supxlabel(
        f"Each layer alone: its kernel and the tensor that it reads; of a block, what is added. {images:,} images.",
        fontsize=8.5, color=GREY, x=0.01, ha="left",
    )  # fmt: skip
    figure.savefig(path)
