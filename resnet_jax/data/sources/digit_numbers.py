"""`digit_numbers`: two handwritten digits side by side that form a number from 00 to 99."""

import numpy as np
from jaxtyping import Int

from resnet_jax.config import DataConfig
from resnet_jax.data.sources.base import Example
from resnet_jax.data.sources.scans import SPLITS, Scans, paste, trim
from resnet_jax.errors import DataError, unknown_name

LENGTHS = {"train": 10_000, "test": 2_000, "known": 8_000, "unseen": 400}
SIDE = 32  # pixels of an image; a square, as evaluation cuts a square out of an image
MIN_SIZE, MAX_SIZE = 13.0, 15.0  # pixels of a digit's longer side before it is turned
MAX_TURN = 4  # degrees, either way
_STREAM, _CUT = 103, 24


def is_unseen(number: int) -> bool:
    """Whether a number is none of `known`: two of every ten that begin, and of every ten that end with a digit."""
    tens, units = divmod(number, 10)
    return (tens + units) % 5 == 0


class DigitNumbers:
    """Images of two digits, each in its own half, for embeddings and for classification.

    The splits `train` and `test` have all 100 numbers. `known` has 80 of them, of scans of `train`, and `unseen` the 20
    others, of scans of `test`. Every digit is in both, in both places.

    An example:
      image: uint8 (32, 32, 1).
      label: the place of its number in `class_names`; example i has label i modulo their number.

    Raises:
      DataError: an unknown split.
    """

    splits = (*SPLITS, "known", "unseen")
    leaves = ("image", "label")

    def __init__(self, config: DataConfig, split: str) -> None:
        if split not in self.splits:
            raise DataError(unknown_name("split of digit_numbers", split, self.splits))
        self._scans = Scans({"known": "train", "unseen": "test"}.get(split, split), "digit_numbers")
        self._length = LENGTHS[split]
        kept = {"known": (False,), "unseen": (True,)}.get(split, (False, True))
        self._numbers = [number for number in range(100) if is_unseen(number) in kept]
        self.class_names = tuple(f"{number:02}" for number in self._numbers)

    def __len__(self) -> int:
        return self._length

    def labels(self) -> Int[np.ndarray, " N"]:
        return np.arange(self._length) % len(self.class_names)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self._length:
            raise IndexError(index)
        label, rng = index % len(self.class_names), self._scans.generator(_STREAM, index)
        number = self._numbers[label]
        picture = np.full((SIDE, SIDE, 1), rng.uniform(0, 60), np.float32)
        for half, digit in enumerate(divmod(number, 10)):
            size, turn = rng.uniform(MIN_SIZE, MAX_SIZE), rng.uniform(-MAX_TURN, MAX_TURN)
            patch = trim(self._scans.cut(self._scans.draw(rng, digit), size, turn, _CUT))
            height, width = patch.cover.shape
            # Near the middle of its half, up to a pixel off, and moved as far as needed to stay in the image.
            middle = SIDE // 4 + half * SIDE // 2 + rng.integers(-1, 2)
            left = int(np.clip(middle - width // 2, 0, SIDE - width))
            top = int(np.clip(SIDE // 2 + rng.integers(-1, 2) - height // 2, 0, SIDE - height))
            paste(picture, patch, left, top, np.array([rng.uniform(150, 255)], np.float32))
        picture += rng.integers(-9, 10, picture.shape, np.int8)
        return {"image": np.clip(picture, 0, 255).astype(np.uint8), "label": label}
