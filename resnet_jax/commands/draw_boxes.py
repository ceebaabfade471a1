"""A photograph with the objects that were found in it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from resnet_jax.analysis.colours import mask_colour
from resnet_jax.analysis.masks import png
from resnet_jax.commands.draw_masks import drawn
from resnet_jax.commands.sheet import cut
from resnet_jax.display import in_figure

if TYPE_CHECKING:
    from resnet_jax.run.boxes import Detections

_DPI = 100
_ALPHA = 0.45
_LONGEST = 18  # letters of a class name
_FONT, _LINE = 8, 15  # points, and pixels of a line of text with its background
MASK = 0.5
"""A pixel is part of an object from this on."""


def boxes_png(found: "Detections", shown: Sequence[int], class_names: Sequence[str]) -> bytes:
    """A PNG of an image with the boxes of the objects `shown`, their classes and scores, and the pixels that are
    theirs. The surest object lies on top.

    A large image is drawn smaller, and a small one larger.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    picture = drawn(_blend(found, shown))
    width, height = picture.size
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(np.asarray(picture), extent=(0, width, height, 0), aspect="auto", interpolation="nearest")
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    for order, place in enumerate(reversed(shown)):
        left, top, right, bottom = (found.boxes[place] * (width / found.image.shape[1])).tolist()
        colour = mask_colour(int(found.labels[place]))
        frame = Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=1.5)
        frame.set_zorder(2 + order)
        axes.add_patch(frame)
        above, at_right = top >= _LINE, left > 0.75 * width
        axes.text(
            right if at_right else left,
            top - 2 if above else top + 2,
            in_figure(f"{cut(class_names[found.labels[place]], _LONGEST)} {100 * found.scores[place]:.0f} %"),
            fontsize=_FONT,
            color=_on(colour),
            va="bottom" if above else "top",
            ha="right" if at_right else "left",
            zorder=2 + len(shown) + order,
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.2},
        )
    canvas.draw()
    return png(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]))


def _on(colour: str) -> str:
    """Black or white, whichever is read more easily on this colour."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#ffffff"


def _blend(found: "Detections", shown: Sequence[int]) -> UInt8[np.ndarray, "H W 3"]:
    """The image with the objects' pixels in the colours of their classes, where there are masks."""
    blended = np.broadcast_to(found.image, (*found.image.shape[:2], 3)).copy()
    if found.masks is None:
        return blended
    owner = np.zeros(blended.shape[:2], int)
    for place in reversed(shown):
        owner[found.masks[place] >= MASK] = place + 1
    for place in shown:
        colour = mask_colour(int(found.labels[place]))
        pixels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], np.float32)
        where = owner == place + 1
        blended[where] = np.round((1 - _ALPHA) * blended[where] + _ALPHA * pixels)
    return blended
