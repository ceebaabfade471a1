"""The masks that proposals are to find: `torchvision.models.detection.roi_heads.project_masks_on_boxes`.

An object's mask is kept as a bitmap of its window: the whole pixels that its box touches. What lies outside is 0.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8


def align_masks(
    bitmaps: UInt8[Array, "R W W"] | Float[Array, "R W W"],
    boxes: Float[Array, "R 4"],
    rois: Float[Array, "R 4"],
    sizes: Int[Array, "R 2"],
    grid: int,
    most_samples: int,
) -> Float[Array, "R S S"]:
    """The grid of each proposal on the mask of its object, with as many samples as a cell has pixels, rounded up: what
    `torchvision.ops.roi_align` does with `sampling_ratio=-1` on a mask of the whole image.

    A bilinear sample is a product with weights for rows and for columns, and so is the mean of them.

    Args:
      bitmaps: of the window floor(x1) to ceil(x2), floor(y1) to ceil(y2) of each box, at the top left. Where a side of
        the window is longer than that of the bitmap, it is scaled to it.
      boxes: of the objects.
      sizes: height and width of the images, without padding. At its border a sample is that of the border.
      grid: cells of a side (S).
      most_samples: as many samples for a cell and axis are taken at most. It must be at least the longest side of a
        proposal divided by `grid`, rounded up.
    """
    rows, columns = (
        _weights(boxes, rois, sizes[:, 1 - axis], axis, grid, bitmaps.shape[2 - axis], most_samples) for axis in (1, 0)
    )
    return jnp.einsum("rph,rhw,rqw->rpq", rows, bitmaps.astype(rois.dtype), columns, precision="highest")


def _weights(
    boxes: Float[Array, "R 4"],
    rois: Float[Array, "R 4"],
    ends: Int[Array, " R"],
    axis: int,
    grid: int,
    length: int,
    most_samples: int,
) -> Float[Array, "R S W"]:
    """How much each pixel of an axis of the bitmaps counts in each cell."""
    wide = lambda x: jnp.asarray(x, rois.dtype)[:, None, None]
    start, side = rois[:, axis], jnp.maximum(rois[:, axis + 2] - rois[:, axis], 1)
    samples, cell = wide(jnp.ceil(side / grid)), wide(side / grid)
    cells = jnp.arange(grid, dtype=rois.dtype)[None, :, None]
    number = jnp.arange(most_samples, dtype=rois.dtype)[None, None]
    places = wide(start) + cells * cell + (number + 0.5) * cell / samples
    end = wide(ends)
    counts = ((places >= -1) & (places <= end) & (number < samples)) / samples
    first, last = jnp.floor(wide(boxes[:, axis])), jnp.ceil(wide(boxes[:, axis + 2]))
    window = jnp.maximum(last - first, 1)
    scale, shown = jnp.minimum(length / window, 1), jnp.minimum(window, length)
    inside = (jnp.clip(places, 0, end - 1) - first + 0.5) * scale - 0.5
    # A scaled pixel is wider than one of the image: its middle lies farther from the border than a sample may.
    inside = jnp.where((scale < 1) & (first <= 0), jnp.maximum(inside, 0), inside)
    inside = jnp.where((scale < 1) & (last >= end), jnp.minimum(inside, shown - 1), inside)
    apart = jnp.abs(inside[..., None] - jnp.arange(length, dtype=rois.dtype).reshape(1, 1, 1, -1))
    return jnp.sum(jnp.maximum(1 - apart, 0) * counts[..., None], axis=2)
