"""How long videos are, for people to look at before training."""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from resnet_jax.data.video.base import Video
from resnet_jax.data.video.sampling import duration

_PART = 16  # frames that are in memory at once


class Length(NamedTuple):
    """Of a video.

    Attributes:
      frames: how many there are.
      seconds: how long they last.
    """

    frames: int
    seconds: float


def length_of(video: Video) -> Length:
    """From the index of the video. Raises `ImageError`."""
    times = video.times()
    return Length(len(times), duration(times))


def digest_of(video: Video) -> tuple[str, tuple[int, ...]]:
    """Decodes all frames. Returns a digest of their times and pixels, and the shape of a frame. Raises `ImageError`."""
    digest, shape = hashlib.blake2b(video.times().tobytes()), ()
    for frames in _all_frames(video):
        digest.update(frames.tobytes())
        shape = frames.shape[1:]
    return f"{digest.hexdigest()} {shape}", shape


def _all_frames(video: Video) -> Iterator[UInt8[np.ndarray, "n H W C"]]:
    numbers = np.arange(len(video.times()))
    for part in np.split(numbers, np.arange(_PART, len(numbers), _PART)):
        yield video.read(part)
