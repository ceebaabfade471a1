"""The pictures of a study: its numbers, its curves, and the measures that are lists."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnet_jax.analysis.colours import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION
from resnet_jax.display import in_figure
from resnet_jax.logs.curves import LOG_SCALE_RATIO
from resnet_jax.run.evaluate import key
from resnet_jax.studies.results import Results, Row

if TYPE_CHECKING:  # matplotlib is imported where a picture is made
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, GREY, BLACK)
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
"""After the last colour comes the next dash."""
Draw = Callable[["Figure", Results], None]


def pictures_of(results: Results) -> dict[str, Draw]:
    """What can be drawn of these results, by the name of the file without `.png`."""
    found: dict[str, Draw] = {}
    if any(row.complete for row in results.rows):
        found["numbers"] = draw_numbers
        found["curves"] = draw_curves
        for name in results.study.measures:
            if any(name in outcome.lists for row in results.rows for outcome in row.complete):
                found[name.replace(" ", "_")] = partial(draw_list, name=name)
        found |= results.study.pictures
    return found


def draw_all(results: Results, folder: Path) -> list[Path]:
    """Draws all pictures as PNG files, and returns their paths."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    paths = []
    for name, draw in pictures_of(results).items():
        figure = Figure(figsize=(9, 5.5), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure, results)
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1])
    return paths


def draw_numbers(figure: "Figure", results: Results) -> None:
    """The numbers of the table: a point for each seed, and the mean with its interval.

    Along an axis of numbers there is a line for each combination of the others; else each cell has a place of its own.
    """
    along = _numeric_axis(results)
    names = [name for name in results.numbers if any(row.by_seed(name) for row in results.rows)]
    figure.suptitle(in_figure(results.study.title), fontsize=13, fontweight="bold")
    figure.set_size_inches(min(4.5 * max(len(names), 2), 14), 5.2)
    # Errors in evaluation and in training are compared; other numbers have units of their own.
    alike = all(results.shown(name).is_fraction for name in names)
    panels = figure.subplots(1, len(names), squeeze=False, sharey=alike)[0]
    for axes, name in zip(panels, names, strict=True):
        shown = results.shown(name)
        axes.set_title(in_figure(shown.title or shown.label), fontsize=11)
        if along:
            _draw_lines(axes, results, along, name)
        else:
            _draw_places(axes, results, name)
        _tidy(axes, percent=shown.is_fraction)
    figure.supxlabel("small points: seeds; bars: 95 % intervals of the mean", fontsize=8.5, color=GREY)
    if along and len(_lines(results, along)) > 1:
        panels[-1].legend(fontsize=9, framealpha=0.9, edgecolor="none")


def draw_curves(figure: "Figure", results: Results) -> None:
    """The best number and the loss over the epochs, in training and evaluation, seed by seed."""
    config, task = results.rows[0].cell.config, results.rows[0].cell.task()
    shown, evaluation = task.names[task.best], config.evaluations[0].name
    figure.set_size_inches(11.5, 7.5)
    figure.suptitle(in_figure(results.study.title), fontsize=13, fontweight="bold")
    panels = figure.subplots(2, 2, sharex=True, sharey="row")
    for column, (kind, words) in enumerate((("train", "training"), ("eval", "evaluation"))):
        for place, (number, label) in enumerate(((task.best, shown.title or shown.label), ("loss", "loss"))):
            axes = panels[place][column]
            for row, style in zip(results.rows, styles(len(results.rows)), strict=True):
                _draw_runs(axes, row, kind, key(evaluation, number) if kind == "eval" else number, style)
            axes.set_ylabel(label)
            _tidy(axes, percent=number == task.best and shown.is_fraction)
        if _spans_decades(panels[1][column]):
            panels[1][column].set_yscale("log")
        panels[0][column].set_title(words)
        panels[1][column].set_xlabel("epoch")
    handles, labels = panels[0][1].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right upper", fontsize=9, frameon=False)


def draw_list(figure: "Figure", results: Results, name: str) -> None:
    """A measure that is a list: the mean over the seeds of each cell, and the range of the seeds."""
    measure = results.study.measure(name)
    figure.suptitle(in_figure(results.study.title), fontsize=13, fontweight="bold")
    axes = figure.subplots()
    for row, style in zip(results.rows, styles(len(results.rows)), strict=True):
        lists = [outcome.lists[name] for outcome in row.complete if name in outcome.lists]
        if not lists:
            continue
        count = min(map(len, lists))
        columns = [[one[place] for one in lists] for place in range(count)]
        places = range(1, count + 1)
        axes.plot(
            places, [sum(column) / len(column) for column in columns], label=row.cell.name, linewidth=1.6, **style
        )
        if len(lists) > 1:
            ends = list(map(min, columns)), list(map(max, columns))
            axes.fill_between(places, *ends, color=style["color"], alpha=0.15, linewidth=0)
    axes.set_xlabel(measure.index)
    axes.set_ylabel(in_figure(name))
    if measure.log:
        axes.set_yscale("log")
    _tidy(axes)
    axes.legend(fontsize=9, framealpha=0.9, edgecolor="none", ncols=1 + len(results.rows) // 9)


def styles(count: int) -> list[dict[str, Any]]:
    """Colours and dashes of `count` lines, all different for the first 32."""
    return [
        {"color": COLOURS[n % len(COLOURS)], "linestyle": DASHES[n // len(COLOURS) % len(DASHES)]} for n in range(count)
    ]


def _spans_decades(axes: "Axes") -> bool:
    """Whether a linear axis would hide the small values beside the large ones."""
    values = [float(y) for line in axes.get_lines() for y in np.asarray(line.get_ydata(), float)]
    return bool(values) and min(values) > 0 and max(values) > LOG_SCALE_RATIO * min(values)


def _numeric_axis(results: Results) -> str | None:
    """The axis along which lines are drawn: one of three or more values that are all numbers."""
    for name in results.study.axes:
        values = {row.cell.values[name] for row in results.rows}
        if len(values) > 2 and all(map(_is_number, values)):
            return name
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _lines(results: Results, along: str) -> dict[str, list[Row]]:
    """The cells of each combination of the other axes, sorted along the axis."""
    lines: dict[str, list[Row]] = {}
    for row in sorted(results.rows, key=lambda row: float(row.cell.values[along])):
        others = "/".join(value for name, value in row.cell.values.items() if name != along)
        lines.setdefault(others, []).append(row)
    return lines


def _draw_lines(axes: "Axes", results: Results, along: str, name: str) -> None:
    lines = _lines(results, along)
    for (label, rows), style in zip(lines.items(), styles(len(lines)), strict=True):
        points = [(float(row.cell.values[along]), row) for row in rows if row.by_seed(name)]
        if not points:
            continue
        means = [row.interval(name).mean for _, row in points]  # type: ignore[union-attr]
        axes.plot([x for x, _ in points], means, label=label or None, linewidth=1.8, marker="o", markersize=4, **style)
        for x, row in points:
            _draw_spread(axes, x, row, name, style["color"])
    axes.set_xlabel(along)
    axes.set_xticks(sorted({float(row.cell.values[along]) for row in results.rows}))


def _draw_places(axes: "Axes", results: Results, name: str) -> None:
    rows = [row for row in results.rows if row.by_seed(name)]
    for place, row in enumerate(rows):
        axes.plot(place, row.interval(name).mean, marker="_", markersize=16, color=BLUE)  # type: ignore[union-attr]
        _draw_spread(axes, place, row, name, BLUE)
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.set_xticks(range(len(rows)), [in_figure(row.cell.name) for row in rows])
    if sum(len(row.cell.name) for row in rows) > 28:
        axes.tick_params(axis="x", rotation=35)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")


def _draw_spread(axes: "Axes", x: float, row: Row, name: str, colour: str) -> None:
    found = row.interval(name)
    assert found is not None
    axes.scatter(
        [x] * found.count, [*row.by_seed(name).values()], s=14, color=colour, alpha=0.45, linewidths=0, zorder=3
    )
    if found.half is not None:
        axes.errorbar(x, found.mean, yerr=found.half, color=colour, capsize=3, linewidth=1.0, alpha=0.8)


def _draw_runs(axes: "Axes", row: Row, kind: str, number: str, style: Mapping[str, Any]) -> None:
    for place, outcome in enumerate(row.outcomes):
        points = [
            (line["epoch"], line[number])
            for line in outcome.log
            if line["kind"] == kind and line.get(number) is not None
        ]
        if points:
            label = None if place else in_figure(row.cell.name)
            alone: dict[str, Any] = {"marker": "o", "markersize": 4} if len(points) == 1 else {}
            axes.plot(*zip(*points, strict=True), linewidth=1.3, alpha=0.85, label=label, **alone, **style)


def _tidy(axes: "Axes", *, percent: bool = False) -> None:
    axes.grid(color="#e5e7eb", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    if percent:
        from matplotlib.ticker import PercentFormatter

        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
