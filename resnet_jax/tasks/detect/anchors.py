"""Anchors: the boxes of fixed shapes, at each place of each map, to which a network says where objects lie.

As `torchvision.models.detection.anchor_utils.AnchorGenerator`. Anchors are constants of a program: their numbers follow
from the sizes of the canvas and of the maps alone.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

Size = tuple[int, int]


def shapes(sizes: Sequence[float], ratios: Sequence[float]) -> Float[np.ndarray, "A 4"]:
    """Boxes around 0 of the same areas as squares of these sizes, with these ratios of height to width: first all sizes
    of the first ratio. Their corners are rounded to whole pixels, halves to even numbers."""
    high = np.sqrt(np.asarray(ratios, np.float32))
    sides = np.asarray(sizes, np.float32)
    # As torchvision computes them, in float32: a corner near a half would be rounded otherwise.
    widths, heights = ((1 / high)[:, None] * sides).reshape(-1), (high[:, None] * sides).reshape(-1)
    return np.round(np.stack([-widths, -heights, widths, heights], axis=1) / 2).astype(np.float64)


def on_map(shapes: Float[np.ndarray, "A 4"], size: Size, canvas: Size) -> Float[np.ndarray, "P 4"]:
    """These shapes at each place of a map, row by row: (height * width * A, 4) boxes on the canvas.

    Args:
      size: height and width of the map.
      canvas: height and width of the padded images; the stride is the whole number of pixels from place to place.
    """
    rows, columns = (np.arange(count) * (whole // count) for count, whole in zip(size, canvas, strict=True))
    y, x = np.meshgrid(rows, columns, indexing="ij")
    moves = np.stack([x, y, x, y], axis=-1).reshape(-1, 1, 4)
    return (moves + shapes[None]).reshape(-1, 4)
