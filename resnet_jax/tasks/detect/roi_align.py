"""RoI align (He et al. 2017, arXiv:1703.06870, section 3): a box of a map as a small grid of fixed size.

As `torchvision.ops.roi_align`. Each cell of the grid is the mean of bilinear samples. A sample more than a pixel
outside the map is 0, any other outside is that of the border.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from resnet_jax.models.forms import per_platform


def roi_align(
    maps: Float[Array, "B H W C"],
    rois: Float[Array, "R 4"],
    images: Int[Array, " R"],
    size: int,
    *,
    scale: float = 1.0,
    samples: int = 2,
    aligned: bool = False,
) -> Float[Array, "R S S C"]:
    """The grid of each box, with `samples` x `samples` samples for each cell.

    Args:
      rois: (x1, y1, x2, y2) in pixels of the image.
      images: which map a box lies on.
      size: cells of a side.
      scale: pixels of the map for one of the image.
      aligned: the middle of a pixel is at .5; without it, a box is at least one pixel wide and high.
    """
    return align_on_levels(
        [maps], rois, images, jnp.zeros(len(rois), int), size, scales=[scale], samples=samples, aligned=aligned
    )


@jax.named_scope("roi_align")
def align_on_levels(
    maps: Sequence[Float[Array, "B _H _W C"]],
    rois: Float[Array, "R 4"],
    images: Int[Array, " R"],
    levels: Int[Array, " R"],
    size: int,
    *,
    scales: Sequence[float],
    samples: int = 2,
    aligned: bool = False,
) -> Float[Array, "R S S C"]:
    """`roi_align` where each box lies on one of several maps, its level, and each map has its own scale."""
    per_map = lambda numbers: jnp.asarray(numbers)[levels]
    heights, widths = (per_map([level.shape[axis] for level in maps]) for axis in (1, 2))
    starts = per_map(np.cumsum([0, *(math.prod(level.shape[:3]) for level in maps)])[:-1])
    pixels = jnp.concatenate([level.reshape(-1, level.shape[-1]) for level in maps])  # of all maps, in one gather
    scale = per_map(jnp.asarray(scales, rois.dtype))
    rows, columns = (
        _taps(_places(rois, axis, size, samples, scale, aligned), lengths[:, None], size)
        for axis, lengths in ((1, heights), (0, widths))
    )
    first = (starts + images * heights * widths)[:, None, None]
    taps = [
        (
            first + (row * widths[:, None])[:, :, None] + column[:, None, :],
            (y_share[:, :, None] * x_share[:, None, :] / samples**2).astype(pixels.dtype),
        )
        for row, y_share in rows
        for column, x_share in columns
    ]
    return _summed(pixels, taps)


Taps = Sequence[tuple[Int[Array, "R S S"], Float[Array, "R S S"]]]


@jax.custom_vjp
def _summed(pixels: Float[Array, "P C"], taps: Taps) -> Float[Array, "R S S C"]:
    """The sum of pixels, each times how much it counts. It has a derivative by the pixels alone."""
    # Where the pixels lie is computed before the sums. XLA for CPUs would otherwise compute it again for each channel,
    # and take ten times as long for all. For the same reason a tap is added after the other: they are one loop then.
    taps = lax.optimization_barrier(tuple(taps))
    (pixel, share), *others = taps
    total = pixels.at[pixel].get(mode="promise_in_bounds") * share[..., None]
    for pixel, share in others:
        total = total + pixels.at[pixel].get(mode="promise_in_bounds") * share[..., None]
    return total


def _summed_forward(pixels: Array, taps: Taps) -> tuple[Array, tuple[Array, Taps]]:
    return _summed(pixels, taps), (jnp.zeros((len(pixels), 0), pixels.dtype), taps)


def _summed_backward(kept: tuple[Array, Taps], back: Float[Array, "R S S C"]) -> tuple[Array, None]:
    like, taps = kept
    pixels, shares = (jnp.stack(parts) for parts in zip(*taps, strict=True))
    return per_platform(like, back, pixels, shares, cpu=_added_late, default=_added), None


def _added(like: Float[Array, "P 0"], back: Array, pixels: Int[Array, "T R S S"], shares: Array) -> Float[Array, "P C"]:
    """Added one after the other into the same array. By itself JAX makes an array as large as all maps for each tap."""

    def add(total: Array, tap: tuple[Array, Array]) -> tuple[Array, None]:
        pixel, share = tap
        return total.at[pixel].add(back * share[..., None], mode="promise_in_bounds"), None

    return lax.scan(add, _nothing(like, back), (pixels, shares))[0]


def _added_late(like: Array, back: Array, pixels: Array, shares: Array) -> Float[Array, "P C"]:
    """The same. XLA for CPUs writes an array of zeros at the start of a step, since it depends on nothing, and keeps it
    until it is needed: 0.3 GB at the peak of Mask R-CNN's. Within a condition it is written when that is known."""
    return lax.cond(jnp.any(back != 0), _added, lambda like, back, *_: _nothing(like, back), like, back, pixels, shares)


def _nothing(like: Array, back: Array) -> Float[Array, "P C"]:
    return jnp.zeros((len(like), back.shape[-1]), like.dtype)


_summed.defvjp(_summed_forward, _summed_backward)


def _taps(
    places: Float[Array, "R P"], lengths: Int[Array, "R 1"], size: int
) -> list[tuple[Int[Array, "R S"], Float[Array, "R S"]]]:
    """For an axis, the pixels that each cell is a sum of, one after the other, and how much each counts."""
    before, behind, share, seen = _neighbours(places, lengths)
    cells = lambda numbers: jnp.moveaxis(numbers.reshape(len(places), size, -1), -1, 0)
    near = zip(cells(before), cells((1 - share) * seen), strict=True)
    return [*near, *zip(cells(behind), cells(share * seen), strict=True)]


def _places(
    rois: Float[Array, "R 4"], axis: int, size: int, samples: int, scale: float | Array, aligned: bool
) -> Float[Array, "R P"]:
    """Where samples lie along an axis, in pixels of the map."""
    start, side = _extent(rois, axis, scale, aligned)
    steps = (jnp.arange(size * samples, dtype=rois.dtype) + 0.5) / samples
    return start[:, None] + steps[None] * side[:, None] / size


def _extent(
    rois: Float[Array, "R 4"], axis: int, scale: float | Array, aligned: bool
) -> tuple[Float[Array, " R"], Float[Array, " R"]]:
    offset = 0.5 if aligned else 0.0
    start, end = rois[:, axis] * scale - offset, rois[:, axis + 2] * scale - offset
    return start, (end - start) if aligned else jnp.maximum(end - start, 1)


def _neighbours(places: Float[Array, "*P"], length: int | Array) -> tuple[Array, Array, Array, Array]:
    """The pixels before and behind a place, how much the one behind counts, and whether the place is seen at all."""
    seen = (places >= -1) & (places <= length)
    inside = jnp.maximum(places, 0)
    before = jnp.minimum(inside.astype(jnp.int32), length - 1)
    share = jnp.where(before >= length - 1, 0, inside - before)
    return before, jnp.minimum(before + 1, length - 1), share, seen.astype(places.dtype)
