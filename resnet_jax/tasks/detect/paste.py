"""From the small mask of a detection to the pixels of its image: `torchvision`'s `paste_masks_in_image`."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_MARGIN = 1  # zeros around a mask before it is enlarged, so that it ends softly


class Pasted(NamedTuple):
    """The part of an image that a mask covers.

    Attributes:
      top, left: of the first pixel, in the image.
      shares: how sure the network is that a pixel belongs to the object; 0 in all other pixels of the image.
    """

    top: int
    left: int
    shares: Float[np.ndarray, "h w"]


def paste(mask: Float[np.ndarray, "M M"], box: Float[np.ndarray, " 4"], shape: tuple[int, int]) -> Pasted:
    """A mask enlarged to its box, in the precision of both: whole pixels, bilinear, cut off at the image's border.

    Args:
      box: x1, y1, x2, y2 in pixels of the image.
      shape: height and width of the image.
    """
    padded = np.pad(mask, _MARGIN)
    half, middle = (box[2:] - box[:2]) * 0.5, (box[2:] + box[:2]) * 0.5
    half = half * box.dtype.type(len(padded) / len(mask))
    (left, top), (right, bottom) = np.trunc(middle - half).astype(int), np.trunc(middle + half).astype(int)
    rows = _weights(len(padded), top, bottom, shape[0], mask.dtype)
    columns = _weights(len(padded), left, right, shape[1], mask.dtype)
    return Pasted(max(int(top), 0), max(int(left), 0), rows @ padded @ columns.T)


def paste_all(
    masks: Float[np.ndarray, "D M M"], boxes: Float[np.ndarray, "D 4"], shape: tuple[int, int]
) -> Float[np.ndarray, "D H W"]:
    """The masks of the detections of an image, each as large as the image."""
    out = np.zeros((len(masks), *shape), masks.dtype)
    for whole, mask, box in zip(out, masks, boxes, strict=True):
        top, left, shares = paste(mask, box, shape)
        whole[top : top + shares.shape[0], left : left + shares.shape[1]] = shares
    return out


def _weights(length: int, first: int, last: int, side: int, dtype: np.dtype) -> Float[np.ndarray, "h L"]:
    """How much each number of an axis of a mask counts in each pixel from `first` to `last` that the image has: torch's
    `interpolate(mode="bilinear", align_corners=False)`."""
    size = max(int(last - first) + 1, 1)
    pixels = np.arange(max(int(first), 0), max(min(int(last) + 1, side), max(int(first), 0))) - first
    places = np.maximum((pixels + 0.5) * (length / size) - 0.5, 0)
    before = np.minimum(places.astype(int), length - 1)
    share = places - before
    weights = np.zeros((len(pixels), length), dtype)
    number = np.arange(len(pixels))
    weights[number, before] = 1 - share
    weights[number, np.minimum(before + 1, length - 1)] += share
    return weights
