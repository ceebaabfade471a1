"""Images and masks changed together: both keep the same pixels at the same places.

It is the recipe of torchvision's references/segmentation: the shorter side resized to a random size, a flip, padding, a
random crop. Images are resized bilinearly and antialiased, masks by the nearest pixel, both as Pillow does it, which
the recipe uses. Both look at the centres of pixels, so they stay aligned. (torch's "nearest" takes the pixel at
floor(i * in / out), up to half a pixel beside.)
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Shaped, UInt8

from resnet_jax.data.masks import NOT_COUNTED
from resnet_jax.data.resample import Box
from resnet_jax.data.transforms import resize_window, resized_shape


class Place(NamedTuple):
    """What a training crop shows.

    Attributes:
      shape: height and width of the whole image after resizing.
      flip: mirrored, left for right.
      top: the first row of the crop in the resized image.
      left: the first column of the crop in the resized image, after the flip.
    """

    shape: tuple[int, int]
    flip: bool
    top: int
    left: int


def draw_place(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    *,
    base: int,
    scale: tuple[float, float],
    crop: int,
    flip: bool = True,
) -> Place:
    """Draws what a crop of `crop` x `crop` pixels shows, by the law and in the order of torchvision's recipe.

    Args:
      shape: of the image; the first two numbers are height and width.
      flip: whether half of the crops are mirrored.
      base: the shorter side becomes a whole number of pixels from `scale[0] * base` to `scale[1] * base`.
    Raises:
      ImageError: the resized image would have more than `decode.MAX_PIXELS` pixels.
    """
    low, high = (max(int(factor * base), 1) for factor in scale)
    size = resized_shape(shape, int(rng.integers(low, high, endpoint=True)))
    flip = bool(rng.random() < 0.5) and flip
    top, left = (int(rng.integers(0, max(side - crop, 0), endpoint=True)) for side in size)
    return Place(size, flip, top, left)


def crop_into(
    image_out: UInt8[np.ndarray, "S S C"],
    mask_out: UInt8[np.ndarray, "S S"],
    image: UInt8[np.ndarray, "H W C"],
    mask: UInt8[np.ndarray, "H W"],
    place: Place,
    colour: Sequence[int],
) -> None:
    """Writes the crop at `place`. What lies right of or below the image gets `colour`, and is not counted."""
    (height, width), size = place.shape, len(image_out)
    high, wide = min(height - place.top, size), min(width - place.left, size)
    # The window in the resized image before the flip, so that nothing else is resized.
    left = width - place.left - wide if place.flip else place.left
    step = -1 if place.flip else 1
    window = (place.top, left, high, wide)
    image_out[...], mask_out[...] = colour, NOT_COUNTED
    image_out[:high, :wide] = resize_window(image, place.shape, "bilinear", window)[:, ::step]
    mask_out[:high, :wide] = resize_nearest(mask, place.shape, window)[:, ::step]


def resize_nearest(
    mask: Shaped[np.ndarray, "H W"], shape: tuple[int, int], window: Box | None = None
) -> Shaped[np.ndarray, "h w"]:
    """A window of a mask resized to `shape`, each pixel the nearest one, as Pillow's `resize(..., NEAREST)` has it.

    Args:
      window: by default the whole resized mask.
    """
    top, left, height, width = window or (0, 0, *shape)
    rows = _nearest(mask.shape[0], shape[0])[top : top + height]
    columns = _nearest(mask.shape[1], shape[1])[left : left + width]
    return mask[rows[:, None], columns]


def _nearest(length: int, size: int) -> Int[np.ndarray, " size"]:
    """The pixel of a side that each pixel of the resized side shows. Pillow adds up steps, and rounds as it does."""
    step = length / size
    steps = np.full(size, step)
    steps[0] = step * 0.5
    return np.minimum(np.cumsum(steps).astype(np.int64), length - 1)
