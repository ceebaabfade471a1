"""Pictures of many images with a caption under each."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from resnet_jax.display import in_figure
from resnet_jax.errors import DataError

SHOWN = 100
"""Pictures on a sheet, at most: more would be too small for the eye, or too large for a screen."""

_LETTER = 0.12  # inches of a letter of a title, about


def check_picture(path: Path) -> None:
    """Raises a DataError where a picture cannot be written: said before the work that it is to show."""
    check_output(path, ".png", "picture", "PNG")


def check_output(path: Path, suffix: str, what: str, kind: str) -> None:
    """Raises a DataError where a file of this kind cannot be written."""
    if path.suffix.lower() != suffix or path.is_dir():
        raise DataError(f"the {what} {path} would be a {kind}; give a file name that ends in {suffix}")
    if not path.parent.is_dir():
        raise DataError(f"cannot write {path}: there is no folder {path.parent}. Make it, or choose another place")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise DataError(f"cannot write {path}: it is not allowed there. Choose another place")


def draw_grid(
    images: Sequence[Float[np.ndarray, "H W C"]],
    captions: Sequence[str],
    title: str,
    notes: str,
    path: Path,
    *,
    columns: int | None = None,
    frames: Sequence[str | None] = (),
) -> None:
    """Draws images with values in [0, 1] and a caption under each as a PNG.

    Args:
      columns: of the grid; None = as many as make it wider than high.
      frames: for each image the colour of a frame, or None; empty = no frames.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = columns or columns_for(len(images))
    rows = -(-len(images) // columns)
    lines = max(caption.count("\n") + 1 for caption in captions)
    side, text = 1.5, 0.2  # inches of an image and of a line of its caption
    note_lines = notes.count("\n") + 1
    head = 0.55 + 0.2 * note_lines
    height = head + rows * (side + 0.15 + text * lines)
    width = max(columns * (side + 0.12) + 0.2, 7.5)
    figure = Figure(figsize=(width, height), dpi=120)
    FigureCanvasAgg(figure)
    size = min(13.0, 13 * (width - 0.2) / (_LETTER * len(title)))
    figure.text(0.1 / width, 1 - 0.15 / height, in_figure(title), fontsize=size, fontweight="bold", va="top")
    figure.text(0.1 / width, 1 - 0.45 / height, notes, fontsize=9, color="#4b5563", va="top", linespacing=1.4)
    margin = (width - columns * (side + 0.12)) / 2
    for place, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(place, columns)
        left = margin + 0.06 + column * (side + 0.12)
        bottom = height - head - (row + 1) * side - row * (0.15 + text * lines)
        axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
        axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_color("#d1d5db")
        if frames and frames[place]:
            axes.spines[:].set(color=frames[place], linewidth=3.5)
        axes.set_xlabel(in_figure(caption), fontsize=9, labelpad=3)
    figure.savefig(path)


def columns_for(count: int) -> int:
    """Of a grid that is wider than high, with few empty cells in its last row."""
    wide = round((1.5 * count) ** 0.5)
    return min(range(max(wide - 1, 1), wide + 2), key=lambda n: (-count % n, abs(n - wide), -n))


def short(name: str, length: int = 18) -> str:
    """A class name that fits under a small picture: the first of its synonyms, or its beginning."""
    return cut(name.split(",")[0], length)  # ImageNet's names list synonyms


def cut(text: str, length: int) -> str:
    """The beginning of a text that is too long."""
    return text if len(text) <= length else f"{text[: length - 1]}…"
