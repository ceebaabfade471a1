"""The drawing of the networks of Figure 3: a box for each layer, and arcs for shortcuts."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax.analysis.colours import GREEN, GREY, INK, ORANGE, PURPLE, SKY
from resnet_jax.peers.layers import Column, Layer, macs_text, rows_by_side

if TYPE_CHECKING:  # matplotlib is imported where a picture is made
    from matplotlib.axes import Axes

# Colours of a layer by its channels, as in the paper's figure: one for each stage.
_TINTS = {64: PURPLE, 128: GREEN, 256: ORANGE, 512: SKY}
WIDTH, HEIGHT, APART = 1.7, 0.62, 3.4  # of a box, and of columns; rows are 1 apart
ARROW: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 7, "color": INK}


def plot_figure3(columns: Sequence[Column], path: Path) -> None:
    """Draws the networks beside each other as a tall PNG: a box for each layer, and arcs for shortcuts."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tops, rows = {}, 0
    for side, count in rows_by_side(columns).items():
        tops[side], rows = rows, rows + count
    figure = Figure(figsize=(1.2 + 2.9 * len(columns), 0.33 * rows + 1.5), dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(-2.9, APART * len(columns) - 1.2)
    axes.set_ylim(rows + 0.1, -3.4)
    axes.axis("off")
    for side, top in tops.items():
        axes.axhline(top - 0.5, color="#d1d5db", linewidth=0.8, linestyle=":")
        axes.text(-2.8, top, f"output\n{side} x {side}", fontsize=8, color=GREY, va="center")
    for place, column in enumerate(columns):
        _draw_column(axes, APART * place, column, tops)
    figure.savefig(path)


def _draw_column(axes: "Axes", x: float, column: Column, tops: dict[int, int]) -> None:
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    costs = f"{column.macs / 1e9:.2f} GMACs\n(the paper says {column.published_gmacs})"
    title = f"{column.title}\n{column.depth} layers with weights\n{costs}"
    axes.text(x, -2.1, title, ha="center", va="center", fontsize=10, fontweight="bold", linespacing=1.5)
    filled = dict.fromkeys(tops, 0)
    above, entry = -0.75, -0.75
    for place, layer in enumerate(column.layers):
        y = tops[layer.side] + filled[layer.side]
        filled[layer.side] += 1
        if place:
            ends = ((x, above), (x, y - HEIGHT / 2))
            axes.add_patch(FancyArrowPatch(*ends, shrinkA=0, shrinkB=0, linewidth=0.8, **ARROW))
        if layer.block and layer.block != column.layers[place - 1].block:
            entry = y - HEIGHT / 2 - 0.24
        box = FancyBboxPatch((x - WIDTH / 2, y - HEIGHT / 2), WIDTH, HEIGHT, boxstyle="round,pad=0,rounding_size=0.12")
        box.set(facecolor=_tint(layer), edgecolor=INK, linewidth=0.7)
        axes.add_patch(box)
        axes.text(x, y, layer.label, ha="center", va="center", fontsize=8, color=INK)
        if layer.macs:
            axes.text(x - WIDTH / 2 - 0.06, y, macs_text(layer.macs), ha="right", va="center", fontsize=6.5, color=GREY)
        above = y + HEIGHT / 2
        if layer.shortcut:
            axes.add_patch(_arc(x, entry, above + 0.18, layer.shortcut))


def _arc(x: float, start: float, end: float, shortcut: str) -> Any:
    """A curve around a block, at its right; dotted where the shortcut changes the shape."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    points = [(x, start), (x + 2.0, start), (x + 2.0, end), (x, end)]
    curve = Curve(points, [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4])
    arc = FancyArrowPatch(path=curve, linewidth=1.0, **ARROW)
    if shortcut == "changed":
        arc.set_linestyle((0, (2, 1.5)))
    return arc


def _tint(layer: Layer) -> str:
    from matplotlib.colors import to_hex, to_rgb

    channels = int(layer.label.split(", ")[1]) if layer.kind == "conv" else 0
    red, green, blue = to_rgb(_TINTS.get(channels, "#ffffff"))
    return to_hex((0.45 * red + 0.55, 0.45 * green + 0.55, 0.45 * blue + 0.55))
