"""`moving_digits`: clips of a digit that moves in one of eight directions. A single frame does not show which."""

import numpy as np
from jaxtyping import Float, Int

from resnet_jax.config import DataConfig
from resnet_jax.data.sources.base import Example
from resnet_jax.data.sources.scans import SPLITS, Scans
from resnet_jax.data.video.base import Clip

LENGTHS = {"train": 4000, "test": 800}
FRAMES, SIDE = 8, 40
MIN_SIZE, MAX_SIZE = 10.0, 28.0  # pixels of a digit's longer side before it is turned
SPEED = (1.6, 3.2)  # least and most pixels in a frame
MOTIONS = (
    "moves right",
    "moves up right",
    "moves up",
    "moves up left",
    "moves left",
    "moves down left",
    "moves down",
    "moves down right",
)
"""Each an eighth of a turn after the one before, anticlockwise."""
_STREAM = 102
_CUT = 44  # pixels: 28 x 28 turned by 45 degrees is 39.6 wide


class MovingDigits:
    """Clips of a digit that moves. The class is the direction.

    A digit that leaves on one side comes in on the other. It begins anywhere, with equal probability, and has a random
    angle and size, which stay. So what a single frame shows has the same distribution in every frame of every class
    (tested): only the change tells the class. A clip played backwards is a clip of the opposite class, which is the
    fourth class after it.

    An example:
      video: eight frames uint8 (40, 40, 1).
      label: the index of the class; example i has class i modulo 8.

    Raises:
      DataError: a split that is neither train nor test.
    """

    class_names = MOTIONS
    splits = SPLITS
    leaves = ("video", "label")

    def __init__(self, config: DataConfig, split: str) -> None:
        self._scans = Scans(split, "moving_digits")
        self._length = LENGTHS[split]

    def __len__(self) -> int:
        return self._length

    def labels(self) -> Int[np.ndarray, " N"]:
        return np.arange(self._length) % len(MOTIONS)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self._length:
            raise IndexError(index)
        label, rng = index % len(MOTIONS), self._scans.generator(_STREAM, index)
        poses = draw_poses(rng, label)
        scan, ink, paper = self._scans.draw(rng), rng.uniform(150, 255), rng.uniform(0, 70)
        clip = np.empty((FRAMES, SIDE, SIDE, 1), np.float32)
        for frame, (x, y, degrees, size) in zip(clip, poses, strict=True):
            frame[..., 0] = paper + (ink - paper) * _wrapped(self._scans.cut(scan, size, degrees, _CUT), x, y)
        clip += rng.integers(-12, 13, clip.shape, np.int8)
        return {"video": Clip(np.clip(clip, 0, 255).astype(np.uint8)), "label": label}


def draw_poses(rng: np.random.Generator, label: int) -> Float[np.ndarray, "T 4"]:
    """For each frame: x and y of the digit's middle in pixels (0 to 40), its angle in degrees, its size in pixels."""
    x, y, turn, size = rng.random(4)
    angle = 2 * np.pi * label / len(MOTIONS)
    way = rng.uniform(*SPEED) * np.arange(FRAMES)
    poses = np.empty((FRAMES, 4))
    poses[:, 0] = (x * SIDE + np.cos(angle) * way) % SIDE
    poses[:, 1] = (y * SIDE - np.sin(angle) * way) % SIDE  # y points down
    poses[:, 2:] = turn * 360, MIN_SIZE * (MAX_SIZE / MIN_SIZE) ** size
    return poses


def _wrapped(cover: Float[np.ndarray, "S S"], x: float, y: float) -> Float[np.ndarray, "H W"]:
    """A cut in the frame with its middle at x, y, to a pixel. Its part beyond one side comes in on the other side."""
    frame = np.zeros((SIDE, SIDE), np.float32)
    margin = _CUT - SIDE  # the cut is wider than the frame: its last columns come to lie on its first
    frame[:] = cover[:SIDE, :SIDE]
    frame[:margin] = np.maximum(frame[:margin], cover[SIDE:, :SIDE])
    frame[:, :margin] = np.maximum(frame[:, :margin], cover[:SIDE, SIDE:])
    return np.roll(frame, (int(y) - _CUT // 2, int(x) - _CUT // 2), axis=(0, 1))
