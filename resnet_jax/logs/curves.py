"""The picture of a run: its best number, loss and learning rate over epochs."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from etils import epath

from resnet_jax.display import in_figure
from resnet_jax.files import write_atomically
from resnet_jax.logs.shown import Shown

if TYPE_CHECKING:  # matplotlib is imported where a picture is made: training itself does not need it
    from matplotlib.axes import Axes

TRAIN, EVALUATION, RATE = "#4c78a8", "#e4572e", "#6b7280"
LOG_SCALE_RATIO = 20.0  # largest loss to smallest: beyond this, a linear axis hides the end of the run
FEW_POINTS = 30  # lines of up to this many points are drawn with dots
Records = Sequence[Mapping[str, Any]]


def plot_curves(records: Records, path: epath.PathLike, title: str, best: str, shown: Shown) -> None:
    """Draws the log of a run as a PNG. Any part of the log may be missing.

    Args:
      records: as `read_metrics` gives them.
      path: the file to write.
      best: the name of the number by which evaluations are compared; larger is better.
      shown: the label of that number, and how it is written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    train = [record for record in records if record["kind"] == "train"]
    evaluations = [record for record in records if record["kind"] == "eval"]
    figure = Figure(figsize=(9, 8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    goal, loss, rate = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1.2])
    figure.suptitle(in_figure(title), fontsize=14, fontweight="bold")

    _line(goal, train, best, TRAIN, "training, on augmented images")
    _line(goal, evaluations, best, EVALUATION, f"evaluation{_best_and_last(evaluations, best, shown)}")
    _mark_best(goal, evaluations, best)
    goal.set_ylabel(shown.title or shown.label)
    if shown.is_fraction:
        goal.yaxis.set_major_formatter(PercentFormatter(1.0))
        if len(set(_points(records, best)[1])) < 2:
            goal.set_ylim(0, 1)

    _line(loss, train, "loss", TRAIN, "training")
    _line(loss, evaluations, "loss", EVALUATION, "evaluation")
    loss.set_ylabel("loss")
    losses = _points(records, "loss")[1]
    if losses and min(losses) > 0 and max(losses) / min(losses) > LOG_SCALE_RATIO:
        loss.set_yscale("log")

    _line(rate, train, "lr", RATE, "")
    rate.set_ylabel("learning rate")
    rate.set_ylim(bottom=0)
    rate.set_xlabel("epoch")
    rate.set_xlim(0, 1.02 * max((record["epoch"] for record in records), default=1.0))

    for axes in (goal, loss, rate):
        axes.grid(color="#e5e7eb", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
    for axes in (goal, loss):
        if axes.lines:
            axes.legend(loc="best", fontsize=9.5, framealpha=0.9, edgecolor="none")
    picture = io.BytesIO()
    figure.savefig(picture)
    write_atomically(path, picture.getvalue())


def _points(records: Records, name: str) -> tuple[list[float], list[float]]:
    known = [record for record in records if record.get(name) is not None]
    return [record["epoch"] for record in known], [record[name] for record in known]


def _line(axes: "Axes", records: Records, name: str, color: str, label: str) -> None:
    epochs, values = _points(records, name)
    if values:
        marker = "o" if len(values) <= FEW_POINTS else ""
        axes.plot(epochs, values, color=color, marker=marker, markersize=3.5, linewidth=1.6, label=label)


def _best(records: Records, name: str) -> tuple[float, float] | None:
    """Epoch and value of the best evaluation; of equal ones the newest."""
    points = list(zip(*_points(records, name), strict=True))
    return max(points, key=lambda point: (point[1], point[0]), default=None)


def _best_and_last(evaluations: Records, name: str, shown: Shown) -> str:
    best = _best(evaluations, name)
    if best is None:
        return ""
    last = _points(evaluations, name)[1][-1]
    return f": best {shown.text(best[1])} at epoch {best[0]:.4g}, last {shown.text(last)}"


def _mark_best(axes: "Axes", evaluations: Records, name: str) -> None:
    best = _best(evaluations, name)
    if best is not None:
        axes.axhline(best[1], color=EVALUATION, linewidth=0.8, linestyle=":")
        axes.plot(*best, marker="*", markersize=14, color=EVALUATION, markeredgecolor="white")
