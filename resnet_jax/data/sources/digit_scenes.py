"""`digit_scenes`: handwritten digits on cluttered canvases, for segmentation and detection."""

import cv2
import numpy as np
from jaxtyping import Float, Int, Int8, UInt8

from resnet_jax.config import DataConfig
from resnet_jax.data.sources.base import Example
from resnet_jax.data.sources.scans import SPLITS, Patch, Scans, box_of, paste, trim
from resnet_jax.errors import DataError

LENGTHS = {"train": 4000, "test": 500}
SIDE = 96  # pixels of a scene
MIN_DIGITS, MAX_DIGITS = 3, 6
MIN_SIZE, MAX_SIZE = 12, 40  # pixels of a digit's longer side before it is turned
MAX_TURN = 20  # degrees, in both directions
MIN_VISIBLE = 0.5  # fraction of a digit's pixels
BITMAP = 56  # pixels of a side; a digit of 40 x 40 turned by 20 degrees is 51.3 wide
_STREAM, _TRIES = 101, 20
Scene = tuple[UInt8[np.ndarray, "H W 3"], Int8[np.ndarray, "H W"], list[int]]
"""The image, which digit each pixel shows, and the digits."""


class DigitScenes:
    """Scenes of 3 to 6 digits that may overlap, in front of pieces of other scans.

    To draw a scene takes a millisecond, a quarter of what a small network's step takes for it. So each is kept: 37 KB,
    and 150 MB for the 4,000 of the training set.

    Later digits cover earlier ones. A digit is placed again if it would leave less than half of an earlier digit's
    pixels visible. If no place is found in 20 tries, the whole scene is drawn again. So every digit of a scene is at
    least half visible, and is a target.

    An example has M = 6 places. The last places may be empty:
      image: uint8 (96, 96, 3).
      mask: uint8 (96, 96); 0 is background, d + 1 the digit d.
      boxes: int32 (M, 4), x1, y1, x2, y2 in pixels, half-open, tight around the visible part; -1 where a place is
        empty.
      classes: int32 (M,), as in the mask, so 1 to 10; -1 where a place is empty.
      instances: uint8 (M, 56, 56). Place m has 1 where the digit is visible, and begins at the box's top left:
        `instances[m, :y2 - y1, :x2 - x1]` are the pixels of the box, unscaled. The rest is 0.

    Raises:
      DataError: a split that is neither train nor test.
    """

    class_names = ("background", *"0123456789")
    splits = SPLITS
    leaves = ("image", "mask", "boxes", "classes", "instances")
    places = MAX_DIGITS

    def __init__(self, config: DataConfig, split: str) -> None:
        self._scans = Scans(split, "digit_scenes")
        self._length = LENGTHS[split]
        self._drawn: dict[int, Scene] = {}

    def __len__(self) -> int:
        return self._length

    def labels(self) -> Int[np.ndarray, " N"]:
        raise DataError(
            "an image of digit_scenes has no single label, as it shows 3 to 6 digits; its leaves are image, mask, "
            "boxes, classes and instances. Read those, or choose digits or digit_numbers"
        )

    def image_size(self, index: int, *, exif: bool = False) -> tuple[int, int]:
        """Height and width of an image."""
        return SIDE, SIDE

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self._length:
            raise IndexError(index)
        if index not in self._drawn:
            rng = self._scans.generator(_STREAM, index)
            scene = None
            while scene is None:
                scene = self._draw(rng)
            self._drawn[index] = scene
        image, owner, digits = self._drawn[index]
        return {"image": image.copy(), **_targets(owner, digits)}

    def _draw(self, rng: np.random.Generator) -> Scene | None:
        """A scene, or None if a digit found no place."""
        picture = _background(rng)
        for _ in range(rng.integers(6, 13)):
            piece = trim(self._scans.piece(rng, rng.uniform(6, 18), 32))
            if piece.cover.size:
                left, top = _place(rng, piece)
                paste(picture, piece, left, top, _colour(rng))
        owner = np.full((SIDE, SIDE), -1, np.int8)  # the number of the digit that a pixel shows
        digits: list[int] = []
        drawn, visible = np.zeros(MAX_DIGITS, int), np.zeros(MAX_DIGITS, int)
        for number in range(rng.integers(MIN_DIGITS, MAX_DIGITS + 1)):
            scan = self._scans.draw(rng)
            size, turn = rng.uniform(MIN_SIZE, MAX_SIZE), rng.uniform(-MAX_TURN, MAX_TURN)
            patch = trim(self._scans.cut(scan, size, turn, BITMAP))
            for _ in range(_TRIES):
                left, top = _place(rng, patch)
                under = owner[top : top + patch.ink.shape[0], left : left + patch.ink.shape[1]]
                hidden = np.bincount(under[patch.ink] + 1, minlength=MAX_DIGITS + 1)[1:]
                if (visible - hidden >= MIN_VISIBLE * drawn).all():
                    break
            else:
                return None
            under[patch.ink] = number
            paste(picture, patch, left, top, _colour(rng))
            visible -= hidden
            visible[number] = drawn[number] = patch.ink.sum()
            digits.append(int(self._scans.labels[scan]))
        picture += rng.integers(-9, 10, picture.shape, np.int8)
        return np.clip(picture, 0, 255).astype(np.uint8), owner, digits


def _targets(owner: Int8[np.ndarray, "H W"], digits: list[int]) -> Example:
    boxes = np.full((MAX_DIGITS, 4), -1, np.int32)
    classes = np.full(MAX_DIGITS, -1, np.int32)
    instances = np.zeros((MAX_DIGITS, BITMAP, BITMAP), np.uint8)
    classes[: len(digits)] = np.array(digits) + 1
    for number in range(len(digits)):
        seen = owner == number
        left, top, right, bottom = boxes[number] = box_of(seen)
        instances[number, : bottom - top, : right - left] = seen[top:bottom, left:right]
    mask = np.array([*classes, 0], np.uint8)[owner]  # owner -1 is the last: background
    return {"mask": mask, "boxes": boxes, "classes": classes, "instances": instances}


def _place(rng: np.random.Generator, patch: Patch) -> tuple[int, int]:
    """Left and top of a patch that lies within the scene."""
    height, width = patch.cover.shape
    return int(rng.integers(SIDE - width + 1)), int(rng.integers(SIDE - height + 1))


def _background(rng: np.random.Generator) -> Float[np.ndarray, "H W 3"]:
    """Dark colours that change smoothly."""
    corners = rng.uniform(10, 100, (3, 3, 3)).astype(np.float32)
    return cv2.resize(corners, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)


def _colour(rng: np.random.Generator) -> Float[np.ndarray, " 3"]:
    """A colour that is lighter than any background: its brightest channel is at least 200."""
    colour = rng.uniform(90, 255, 3).astype(np.float32)
    colour[rng.integers(3)] = rng.uniform(200, 255)
    return colour
