"""What a video is to the rest of the package: frames by number, and the time of each."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int, UInt8


class Video(Protocol):
    """A video. One thread reads it at a time."""

    def times(self) -> Float[np.ndarray, " F"]:
        """When each frame is shown, in seconds. The first is shown at 0, and the times grow.

        Raises:
          ImageError: the video cannot be read.
        """

    def read(self, indices: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n H W C"]:
        """The frames with these numbers, in this order. A number may stand there more than once.

        Raises:
          ImageError: a frame cannot be read.
        """


@dataclass(frozen=True)
class Clip:
    """Frames in memory, as a video.

    Attributes:
      frames: uint8 (F, H, W, C).
      rate: frames per second.
    """

    frames: UInt8[np.ndarray, "F H W C"]
    rate: float = 25.0

    def times(self) -> Float[np.ndarray, " F"]:
        return np.arange(len(self.frames)) / self.rate

    def read(self, indices: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n H W C"]:
        return self.frames[indices]
