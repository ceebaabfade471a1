"""Pillow's resizing, byte for byte and ten times as fast, for only the part that is wanted.

Evaluation must show a network exactly the bytes that torchvision's transforms make with Pillow, and Pillow's resizing
took most of its time. Pillow works pixel by pixel. Here a row of the result is a weighted sum of whole rows, which the
compiler (Numba) turns into vector instructions. For the other side, OpenCV turns the image over. Measured in
docs/data.md.

The arithmetic is that of Pillow's src/libImaging/Resample.c: antialiased, the width first, rounded to bytes in between.
"""

import math
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Int, UInt8
from numba import njit

from resnet_jax.data.scratch import scratch

# The pipeline runs one image per thread. OpenCV's own threads would only compete with these for the same cores.
cv2.setNumThreads(0)

Interpolation = Literal["bilinear", "bicubic"]
Box = tuple[int, int, int, int]
"""Top, left, height and width in pixels."""

_Taps = tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Int[np.ndarray, "n K"]]
"""For each pixel of a resized side: the first pixel that it is made of, how many pixels, and the weight of each."""

_SUPPORTS: dict[Interpolation, float] = {"bilinear": 1.0, "bicubic": 2.0}
# Bits of a weight behind the point: 32 bits, less 8 for a pixel and 2 for the sum.
_BITS = 22
_HALF = np.int32(1 << (_BITS - 1))


def resample(
    image: UInt8[np.ndarray, "H W C"],
    size: tuple[int, int],
    interpolation: Interpolation = "bilinear",
    *,
    window: Box | None = None,
    out: UInt8[np.ndarray, "h w C"] | None = None,
) -> UInt8[np.ndarray, "h w C"]:
    """A window of an image that was resized to `size` (height, width). The rest of the resized image is not made.

    The bytes are Pillow's, except where `height_first`.

    Args:
      window: by default the whole resized image.
      out: contiguous memory to write to, by default new.
    """
    channels = image.shape[2]
    top, left, height, width = window or (0, 0, *size)
    support = _SUPPORTS[interpolation]
    down = _taps(image.shape[0], size[0], top, height, support)
    across = _taps(image.shape[1], size[1], left, width, support)
    (begin, end), (start, stop) = _reach(down), _reach(across)

    columns = _turn(image[begin:end, start:stop], "columns")
    resized = scratch("resized", width * (end - begin) * channels).reshape(width, -1)
    _weigh_rows(columns, start, *across, resized)
    rows = _turn(resized.reshape(width, end - begin, channels), "rows")
    if out is None:
        out = np.empty((height, width, channels), np.uint8)
    assert out.flags.c_contiguous
    _weigh_rows(rows, begin, *down, out.reshape(height, -1))
    return out


def _turn(image: UInt8[np.ndarray, "H W C"], name: str) -> UInt8[np.ndarray, "W H*C"]:
    height, width, channels = image.shape
    turned = cv2.transpose(image, scratch(name, image.size).reshape(width, height, channels))
    return turned.reshape(width, -1)


def height_first(shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether Pillow, since version 13, resizes the height of such an image first, which rounds the bytes otherwise."""
    return shape[0] - size[0] > max(2 * (shape[1] - size[1]), 0)


def _reach(taps: _Taps) -> tuple[int, int]:
    """The first pixel of the side that is used, and one more than the last."""
    first, count, _ = taps
    return int(first[0]), int(first[-1] + count[-1])


@njit(nogil=True)
def _taps(length, size, start, outputs, support):  # type: ignore[no-untyped-def]  # Numba infers them
    """The `_Taps` of `outputs` pixels, from pixel `start` on, for a side of `length` that is resized to `size`."""
    scale = length / size
    stretch = max(scale, 1.0)
    reach = support * stretch
    first, count = np.empty(outputs, np.int64), np.empty(outputs, np.int64)
    weights = np.zeros((outputs, 2 * math.ceil(reach) + 1), np.int32)
    exact = np.empty(weights.shape[1])
    for i in range(outputs):
        center = (start + i + 0.5) * scale
        begin = max(int(center - reach + 0.5), 0)
        taps = min(int(center + reach + 0.5), length) - begin
        total = 0.0
        for k in range(taps):
            exact[k] = _kernel(abs((k + begin - center + 0.5) * (1.0 / stretch)), support)
            total += exact[k]
        first[i], count[i] = begin, taps
        for k in range(taps):
            weight = exact[k] / total * (1 << _BITS)
            weights[i, k] = int(weight + 0.5) if weight >= 0 else int(weight - 0.5)
    return first, count, weights


@njit(nogil=True)
def _kernel(x, support):  # type: ignore[no-untyped-def]
    """The triangle, or Keys' cubic with a = -1/2."""
    if support == 1.0:
        return 1.0 - x if x < 1.0 else 0.0
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5 if x < 2.0 else 0.0


@njit(nogil=True)
def _weigh_rows(rows, begin, first, count, weights, out):  # type: ignore[no-untyped-def]
    """Writes the weighted sums of taps into the rows of `out`. `rows` begins with the image's row number `begin`."""
    length = out.shape[1]
    total = np.empty(length, np.int32)
    for i in range(out.shape[0]):
        total[:] = _HALF  # so that the shift below rounds and does not cut off
        for k in range(count[i]):
            weight, row = weights[i, k], rows[first[i] + k - begin]
            for j in range(length):
                total[j] += np.int32(row[j]) * weight
        for j in range(length):
            out[i, j] = min(max(total[j] >> _BITS, 0), 255)
