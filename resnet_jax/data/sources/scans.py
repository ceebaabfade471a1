"""Handwritten digits that are cut out of scans, made larger, turned, and pasted into pictures.

`digit_scenes`, `moving_digits` and `digit_numbers` are composed of them. The two splits have no scan in common.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from resnet_jax.data.sources.arrays import DIGITS_SPLITS, read_digits
from resnet_jax.errors import DataError, unknown_name

SPLITS = ("train", "test")
INK = 0.4  # of black: darker pixels of a scan belong to the digit
# Enlarged scans are blurred. Pixels lighter than the first level are paper, pixels darker than the second are ink.
_PAPER, _FULL = 70, 150
_COVER = np.clip((np.arange(256, dtype=np.float32) - _PAPER) / (_FULL - _PAPER), 0, 1)


class Scans:
    """The scans of one split of scikit-learn's digits, as `digits` divides them: 1,437 to train on and 360 to test.

    Args:
      data_set: the name of the data set that is made of them, for errors.

    Attributes:
      images: (N, 8, 8); 0 is paper.
      labels: the digit of each.

    Raises:
      DataError: a split that is neither train nor test.
    """

    def __init__(self, split: str, data_set: str) -> None:
        if split not in SPLITS:
            raise DataError(unknown_name(f"split of {data_set}", split, SPLITS))
        assert set(SPLITS) < set(DIGITS_SPLITS)
        self.images, self.labels = read_digits(split)
        self._split = SPLITS.index(split)
        self._of_digit = [np.flatnonzero(self.labels == digit) for digit in range(10)]
        self._boxes = [_ink_box(image) for image in self.images]

    def generator(self, stream: int, index: int) -> np.random.Generator:
        """The randomness of one example. It depends only on the data set's number, the split and the index."""
        return np.random.default_rng([stream, self._split, index])

    def draw(self, rng: np.random.Generator, digit: int | None = None) -> int:
        """The index of a scan of `digit`, or of any digit."""
        chosen = self._of_digit[rng.integers(10) if digit is None else digit]
        return int(chosen[rng.integers(len(chosen))])

    def cut(self, scan: int, size: float, degrees: float, canvas: int) -> Float[np.ndarray, "S S"]:
        """How far each pixel of a square of `canvas` pixels is covered by a digit, from 0 to 1.

        Args:
          size: of the longer side of the digit's ink before it is turned, in pixels. The digit is in the square's
            middle.
          degrees: angle by which the digit is turned, anticlockwise.
        """
        left, top, right, bottom = self._boxes[scan]
        scale = size / max(right - left, bottom - top)
        middle = ((left + right - 1) / 2, (top + bottom - 1) / 2)
        return _warp(self.images[scan], middle, scale, degrees, canvas)

    def piece(self, rng: np.random.Generator, size: float, canvas: int) -> Float[np.ndarray, "S S"]:
        """As `cut`, for 3 or 4 pixels square out of any scan, turned at random: strokes that form no digit."""
        side = int(rng.integers(3, 5))
        row, column = rng.integers(1, 8 - side, 2)
        part = self.images[self.draw(rng), row : row + side, column : column + side]
        return _warp(part, ((side - 1) / 2, (side - 1) / 2), size / side, rng.uniform(0, 360), canvas)


class Patch(NamedTuple):
    """The part of a square that a digit covers.

    Attributes:
      cover: from 0 to 1; no outer row or column is all 0.
      ink: True where a pixel is at least half covered. These pixels belong to the digit.
    """

    cover: Float[np.ndarray, "H W"]
    ink: Bool[np.ndarray, "H W"]


def trim(cover: Float[np.ndarray, "S S"]) -> Patch:
    """A square without the empty rows and columns around its digit."""
    left, top, right, bottom = box_of(cover > 0)
    cover = cover[top:bottom, left:right]
    return Patch(cover, cover >= 0.5)


def box_of(pixels: Bool[np.ndarray, "H W"]) -> Int[np.ndarray, " 4"]:
    """The tight box x1, y1, x2, y2 of pixels, half-open; all 0 where there are none."""
    columns, rows = np.flatnonzero(pixels.any(0)), np.flatnonzero(pixels.any(1))
    if not len(columns):
        return np.zeros(4, np.int32)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.int32)


def paste(
    picture: Float[np.ndarray, "H W C"], patch: Patch, left: int, top: int, colour: Float[np.ndarray, " C"]
) -> None:
    """Paints a patch. `left` and `top` are the place of its first pixel; the patch must lie within the picture."""
    height, width = patch.cover.shape
    under = picture[top : top + height, left : left + width]
    under[...] = under + patch.cover[..., None] * (colour - under)


def _ink_box(image: UInt8[np.ndarray, "8 8"]) -> tuple[int, int, int, int]:
    left, top, right, bottom = box_of(image >= INK * 255).tolist()
    return left, top, right, bottom


def _warp(
    image: UInt8[np.ndarray, "H W"], middle: tuple[float, float], scale: float, degrees: float, canvas: int
) -> Float[np.ndarray, "S S"]:
    matrix = cv2.getRotationMatrix2D(middle, degrees, scale)
    matrix[0, 2] += (canvas - 1) / 2 - middle[0]
    matrix[1, 2] += (canvas - 1) / 2 - middle[1]
    # Without a margin of paper, a digit would end in a hard edge where its scan ends.
    grey = cv2.warpAffine(image, matrix, (canvas, canvas), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT)
    return _COVER[grey]
