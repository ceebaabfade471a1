"""Decodes JPEGs fast (measured in docs/data.md): only the part that a random crop of training needs, or the whole.

Nearly all of a JPEG's cost is in its entropy code, which can only be read from the top. So the rows below the box are
never decoded. A box that will be shrunk is decoded at 1/2, 1/4 or 1/8 of its size, which the format gives nearly for
free. Unusual files are left to Pillow, which also decides whether a file is broken.
"""

from dataclasses import dataclass

import numpy as np
import simplejpeg
from jaxtyping import UInt8

from resnet_jax.data.decode import check_pixels, decode_image, to_channels
from resnet_jax.data.resample import Box
from resnet_jax.data.scratch import scratch

_START = b"\xff\xd8"
_END = b"\xff\xd9"
_BASELINE = 0xC0
_FRAMES = (_BASELINE, 0xC1, 0xC2)  # sequential and progressive Huffman codes; all others are rare
_END_WITHIN = 64  # bytes from the end of the file: some writers pad their files


@dataclass(frozen=True)
class Frame:
    """The description of the picture in a JPEG's header."""

    height: int
    width: int
    at: int
    """Where in the file the height is written."""
    baseline: bool
    """Rows come from top to bottom. In a progressive file, the whole picture is refined again and again instead."""


def read_frame(data: bytes) -> Frame | None:
    """The frame of a complete 8-bit JPEG in grey or colour; None for anything else."""
    if not data.startswith(_START) or data.rfind(_END, -_END_WITHIN) < 0:
        return None
    at = len(_START)
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _FRAMES:
            height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            usual = data[at + 4] == 8 and data[at + 9] in (1, 3) and height and width
            return Frame(height, width, at + 5, marker == _BASELINE) if usual else None
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None


def decode_exactly(data: bytes, channels: int, *, name: str) -> UInt8[np.ndarray, "H W C"] | None:
    """The pixels of `decode_image` for a complete JPEG, to the byte, in half the time. None for files left to Pillow.

    Raises:
      ImageError: more than `MAX_PIXELS` pixels.
    """
    frame = read_frame(data)
    if frame is None:
        return None
    check_pixels(frame.height, frame.width, name)
    try:
        pixels = simplejpeg.decode_jpeg(data, colorspace="RGB")  # the slow methods are Pillow's
    except ValueError:
        return None
    return to_channels(pixels, channels, name=name)


def decode_box(
    data: bytes, frame: Frame, box: Box, size: int, channels: int, *, name: str
) -> UInt8[np.ndarray, "h w C"]:
    """The pixels of a box, at the smallest of the scales 1, 1/2, 1/4 and 1/8 that leaves both sides at least `size`.

    The next call in the same thread overwrites the pixels.

    Raises:
      ImageError: as `decode_image`.
    """
    check_pixels(frame.height, frame.width, name)
    top, left, height, width = box
    rows = top + height if frame.baseline else frame.height
    # A smaller height is written into the header, so that the decoder stops there. The last row of blocks is decoded as
    # a whole, and fast upsampling looks at no row below it.
    if rows < frame.height:
        data = b"".join((data[: frame.at], rows.to_bytes(2), data[frame.at + 2 :]))
    shrink = next((k for k in (8, 4, 2) if min(height, width) >= k * size), 1)
    try:
        pixels = simplejpeg.decode_jpeg(
            data,
            colorspace="GRAY" if channels == 1 else "RGB",
            fastdct=True,
            fastupsample=True,
            min_height=-(-rows // shrink),
            min_width=-(-frame.width // shrink),
            buffer=scratch("pixels", rows * frame.width * channels),
            strict=False,  # as Pillow: after small damage within the entropy code there is still a picture
        )
    except ValueError:
        pixels, shrink = decode_image(data, channels, name=name), 1
    ends = [round(edge / shrink) for edge in (top, top + height, left, left + width)]
    return pixels[ends[0] : ends[1], ends[2] : ends[3]]
