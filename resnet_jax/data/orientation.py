"""Photographs turned upright: a camera stores pixels as they came, and writes how it was held, EXIF's orientation."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from resnet_jax.data.resample import Box

_TAG = 0x0112
# The CIPA DC-008 standard, section 4.6.4: what has to be done to the stored rows and columns. First they are reversed,
# then rows and columns change places.
_ROWS_REVERSED, _COLUMNS_REVERSED, _EXCHANGED = (3, 4, 6, 7), (2, 3, 7, 8), (5, 6, 7, 8)


def orientation(image: bytes | Image.Image) -> int:
    """How an image is to be turned, 1 to 8; 1 = not at all, or there is no telling."""
    try:
        if isinstance(image, bytes):
            with Image.open(io.BytesIO(image)) as file:
                return orientation(file)
        if image.format == "TIFF":
            return 1  # Pillow turns these itself, always
        value = image.getexif().get(_TAG, 1)
    except Exception:  # EXIF that is damaged says nothing, and Pillow raises anything; the picture may be sound
        return 1
    return value if value in range(1, 9) else 1


def upright(pixels: UInt8[np.ndarray, "H W C"], turned: int) -> UInt8[np.ndarray, "h w C"]:
    """Stored pixels as a viewer shows them, byte for byte what `PIL.ImageOps.exif_transpose` makes of the image.

    Args:
      turned: see `orientation`.
    """
    if turned == 1:
        return pixels
    pixels = pixels[:: -1 if turned in _ROWS_REVERSED else 1, :: -1 if turned in _COLUMNS_REVERSED else 1]
    return np.ascontiguousarray(pixels.swapaxes(0, 1) if turned in _EXCHANGED else pixels)


def upright_shape(height: int, width: int, turned: int) -> tuple[int, int]:
    """Height and width once the image is upright."""
    return (width, height) if turned in _EXCHANGED else (height, width)


def stored_box(box: Box, height: int, width: int, turned: int) -> Box:
    """Where a box of the upright image lies in the stored one, of `height` x `width` pixels."""
    top, left, high, wide = box
    if turned in _EXCHANGED:
        top, left, high, wide = left, top, wide, high
    if turned in _ROWS_REVERSED:
        top = height - top - high
    if turned in _COLUMNS_REVERSED:
        left = width - left - wide
    return top, left, high, wide
