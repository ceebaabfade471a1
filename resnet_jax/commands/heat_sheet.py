"""Pictures of images beside their heat maps, with a caption under each and a bar of the colours."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from resnet_jax.analysis.attention.overlay import COLOURS
from resnet_jax.display import in_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIDE, _GAP, _BETWEEN, _LINE = 1.3, 0.04, 0.16, 0.15  # inches: an image, between the images of a panel, between panels
_WIDTH, _MARGIN, _FOOT = 8.4, 0.15, 0.5
_LETTERS = 130  # of a line of notes

Panel = Sequence[UInt8[np.ndarray, "S S C"]]


def draw_heat(
    panels: Sequence[Panel],
    captions: Sequence[str],
    title: str,
    notes: str,
    ends: tuple[str, str] | None,
    path: Path,
) -> None:
    """Draws panels, each of a few images in a row with one caption under them, as a PNG.

    Args:
      notes: lines under the title.
      ends: what the first and the last colour of the bar mean; None = no bar.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    notes = "\n".join(textwrap.fill(line, _LETTERS) for line in notes.splitlines())
    across = max(map(len, panels))
    wide = across * (_SIDE + _GAP) - _GAP
    columns = max(1, min(len(panels), int((_WIDTH + _BETWEEN) / (wide + _BETWEEN))))
    rows = -(-len(panels) // columns)
    lines = max(caption.count("\n") + 1 for caption in captions)
    head = 0.5 + 0.19 * (notes.count("\n") + 1)
    cell = _SIDE + 0.1 + _LINE * lines + 0.14
    height = head + rows * cell + (_FOOT if ends else 0.1)
    width = _WIDTH + 2 * _MARGIN
    figure = Figure(figsize=(width, height), dpi=120)
    FigureCanvasAgg(figure)

    def write(left: float, down: float, text: str, size: float, room: float, **style: Any) -> None:
        """Text at a place in inches from the upper left corner, smaller where it is wider than the room."""
        drawn = figure.text(left / width, 1 - down / height, in_figure(text), fontsize=size, va="top", **style)
        while drawn.get_window_extent().width > room * figure.dpi and size > 3:
            size *= 0.95
            drawn.set_fontsize(size)

    write(_MARGIN, 0.13, title, 12, _WIDTH, fontweight="bold")
    write(_MARGIN, 0.42, notes, 8.5, _WIDTH, color="#4b5563")
    for place, (panel, caption) in enumerate(zip(panels, captions, strict=True)):
        row, column = divmod(place, columns)
        left, top = _MARGIN + column * (wide + _BETWEEN), height - head - row * cell
        for number, image in enumerate(panel):
            at = left + number * (_SIDE + _GAP)
            axes = figure.add_axes((at / width, (top - _SIDE) / height, _SIDE / width, _SIDE / height))
            axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set_axis_off()
        write(left, height - top + _SIDE + 0.06, caption, 7.5, wide, linespacing=1.25)
    if ends is not None:
        _bar(figure, ends, width, height)
    figure.savefig(path)


def _bar(figure: "Figure", ends: tuple[str, str], width: float, height: float) -> None:
    """A bar of the colours, at the foot of the picture."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colorbar import Colorbar

    bar = figure.add_axes(((width - 3) / 2 / width, 0.2 / height, 3 / width, 0.12 / height))
    drawn = Colorbar(bar, ScalarMappable(cmap=COLOURS), orientation="horizontal")
    drawn.set_ticks([])
    for end, x, align in zip(ends, (-0.03, 1.03), ("right", "left"), strict=True):
        bar.text(x, 0.5, end, fontsize=8, ha=align, va="center", transform=bar.transAxes)
