"""A photograph with the classes of its mask in colours."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from resnet_jax.analysis.colours import mask_colour, mask_palette
from resnet_jax.analysis.masks import Seen, png
from resnet_jax.commands.sheet import cut
from resnet_jax.display import in_figure

LARGEST, SMALLEST = 1200, 400  # pixels of the longer side of a drawn photograph
NAMED = 24  # classes of a legend
_ALPHA = 0.6
_DPI = 100
_COLUMN, _LINE, _EDGE = 210, 20, 8  # pixels of a legend's column and line, and beside everything
_LONGEST = 18  # letters of a class name


def overlay_png(
    image: UInt8[np.ndarray, "H W C"], mask: UInt8[np.ndarray, "H W"], seen: Sequence[Seen], class_names: Sequence[str]
) -> bytes:
    """A PNG of an image with the colours of its classes over it, and below the classes that occur.

    A large image is drawn smaller, and a small one larger. The background has no colour.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    picture = drawn(_blend(image, mask))
    shown = seen[:NAMED]
    texts = [f"{cut(class_names[one.label], _LONGEST)}: {_percent(one.share)}" for one in shown]
    texts += [f"and {len(seen) - NAMED} more"] if len(seen) > NAMED else []
    width = max(picture.width, _COLUMN) + 2 * _EDGE
    columns = max(1, min(len(texts), (width - 2 * _EDGE) // _COLUMN))
    height = picture.height + 3 * _EDGE + _LINE * -(-len(texts) // columns)
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    for place, text in enumerate(texts):
        row, column = divmod(place, columns)
        left, middle = _EDGE + column * _COLUMN, picture.height + 2 * _EDGE + _LINE * (row + 0.5)
        if place < len(shown):
            label = shown[place].label
            colour = mask_colour(label) if label else "#ffffff"
            axes.add_patch(Rectangle((left, middle - 6), 12, 12, facecolor=colour, edgecolor="#6b7280", linewidth=0.8))
        axes.text(left + 19, middle, in_figure(text), fontsize=9, color="#111827", va="center")
    canvas.draw()
    page = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    page.paste(picture, ((width - picture.width) // 2, _EDGE))
    return png(page)


def _blend(image: UInt8[np.ndarray, "H W C"], mask: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """The image with the colours of its classes over it."""
    blended = np.broadcast_to(image, (*mask.shape, 3)).copy()
    for label in np.unique(mask[mask > 0]).tolist():
        where = mask == label
        colour = np.array(mask_palette(label + 1)[label], np.float32)
        blended[where] = np.round((1 - _ALPHA) * blended[where] + _ALPHA * colour)
    return blended


def drawn(pixels: UInt8[np.ndarray, "H W 3"]) -> Image.Image:
    """At most `LARGEST` pixels a side. A small image gets a whole number of pixels for each of its own."""
    image, longer = Image.fromarray(pixels), max(pixels.shape[:2])
    if longer > LARGEST:
        width, height = (max(1, round(side * LARGEST / longer)) for side in image.size)
        return image.resize((width, height), Image.Resampling.BOX)
    times = max(1, SMALLEST // longer)
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.0005 else "< 0.1 %"
