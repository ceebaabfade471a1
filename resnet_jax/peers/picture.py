"""The picture of a comparison: accuracy against each cost."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax.analysis.colours import BLUE, GREY, INK, ORANGE, VERMILION
from resnet_jax.display import in_figure
from resnet_jax.peers.measure import JAX, Comparison, Row, Speed
from resnet_jax.peers.torch_process import COMPILED, EAGER

if TYPE_CHECKING:  # matplotlib is imported where a picture is made
    from matplotlib.axes import Axes

LOOKS = {JAX: (BLUE, "o"), EAGER: (VERMILION, "s"), COMPILED: (ORANGE, "^")}
COUNTS: tuple[tuple[str, Callable[[Row], float]], ...] = (
    ("parameters, millions", lambda row: row.parameters / 1e6),
    ("GMACs of one image", lambda row: row.macs / 1e9),
    ("activations of one image, millions", lambda row: row.activations / 1e6),
)
SPEEDS: tuple[tuple[str, Callable[[Speed], float | None]], ...] = (
    ("ms of one image alone", lambda speed: speed.latency and 1e3 * speed.latency),
    ("images/s, batch of {batch}", lambda speed: speed.images_per_second),
    ("peak memory, MB, batch of {batch}", lambda speed: speed.peak_bytes and speed.peak_bytes / 1e6),
)
Point = tuple[float, float, str, str]  # x, y, colour, marker


def plot_costs(comparison: Comparison, path: Path) -> None:
    """Draws published top-1 accuracy against each cost as a PNG. Networks without a published accuracy are left out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    rows = [row for row in comparison.rows if row.published]
    timed = [speed.engine for row in rows for speed in row.speeds if not speed.problem]
    lines = 2 if timed else 1
    figure = Figure(figsize=(13, 1 + 4.1 * lines), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, 3, sharey=True, squeeze=False)
    for axes, (label, value) in zip(panels[0], COUNTS, strict=True):
        points = [[(value(row), _top1(row), INK, "o")] for row in rows]
        _draw_panel(axes, label, [row.word for row in rows], points)
    for axes, (label, measured) in zip(panels[1] if timed else (), SPEEDS, strict=bool(timed)):
        points = []
        for row in rows:
            values = [(measured(speed), LOOKS[speed.engine]) for speed in row.speeds]
            points.append([(x, _top1(row), *look) for x, look in values if x])
        _draw_panel(axes, label.format(batch=comparison.batch_size), [row.word for row in rows], points)
    for line in panels:
        line[0].set_ylabel("published top-1, %")
    figure.suptitle("Accuracy as published, against what a network costs", fontsize=14, fontweight="bold")
    if timed:
        engines = [engine for engine in LOOKS if engine in timed]
        looks = [Line2D([], [], color=LOOKS[one][0], marker=LOOKS[one][1], linestyle="none") for one in engines]
        figure.legend(looks, engines, loc="outside lower center", ncols=len(engines), frameon=False)
    figure.savefig(path)


def _top1(row: Row) -> float:
    assert row.published is not None
    return row.published.top1


def _draw_panel(axes: "Axes", label: str, words: Sequence[str], points: Sequence[Sequence[Point]]) -> None:
    """The points of a network are joined by a line, and its name stands beside one of them."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_xscale("log")
    axes.set_xlabel(label)
    axes.grid(color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(0.2, 0.12)
    for own in points:
        axes.plot([x for x, *_ in own], [y for _, y, *_ in own], color=GREY, linewidth=0.8, zorder=1)
        for x, y, colour, marker in own:
            axes.scatter([x], [y], color=colour, marker=marker, s=34, zorder=2)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    _name(axes, words, points)


# Where a name may stand beside its point: points to the right and up, and how the text is aligned there.
_PLACES = (
    (0, 8, "center", "bottom"),
    (0, -8, "center", "top"),
    (8, 0, "left", "center"),
    (-8, 0, "right", "center"),
    (0, 19, "center", "bottom"),
    (0, -19, "center", "top"),
)


def _name(axes: "Axes", words: Sequence[str], points: Sequence[Sequence[Point]]) -> None:
    """Writes each name where it covers no point and no other name, as far as there is such a place."""
    from matplotlib.transforms import Bbox

    figure: Any = axes.figure
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    taken = []
    for x, y, *_ in (point for own in points for point in own):
        left, bottom = axes.transData.transform((x, y)) - 5
        taken.append(Bbox.from_bounds(left, bottom, 10, 10))
    for word, own in zip(words, points, strict=True):
        tries: list[tuple[float, int, Any, Any]] = []
        for point in own:
            for dx, dy, side, height in _PLACES:
                look: dict[str, Any] = {"ha": side, "va": height, "fontsize": 8, "color": INK}
                text = axes.annotate(in_figure(word), point[:2], (dx, dy), textcoords="offset points", **look)
                box = text.get_window_extent(renderer)
                outside = box.x1 > axes.bbox.x1 or box.x0 < axes.bbox.x0
                tries.append((sum(box.overlaps(other) for other in taken) + 3 * outside, len(tries), text, box))
        tries.sort(key=lambda one: one[:2])
        taken += [box for *_, box in tries[:1]]
        for _, _, text, _ in tries[1:]:
            text.remove()
