"""Folders of frames, as some data sets hold their videos."""

import os
import re
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int, UInt8

from resnet_jax.data.transforms import decode
from resnet_jax.errors import ImageError


class FrameFolder:
    """The images of a folder, in the order of the numbers in their names, as a video.

    Args:
      path: of the folder, in which all images have one size.
      files: the names of its images, in any order.
      rate: frames per second.
    """

    def __init__(self, path: str, files: list[str], rate: float) -> None:
        self.path = path
        self._files, self._rate = files, rate

    @cached_property
    def _ordered(self) -> list[str]:
        return sorted(self._files, key=lambda name: [int(part) if part.isdigit() else part for part in _parts(name)])

    def times(self) -> Float[np.ndarray, " F"]:
        return np.arange(len(self._files)) / self._rate

    def read(self, indices: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n H W 3"]:
        frames = [self._frame(self._ordered[index]) for index in indices.tolist()]
        if len({frame.shape for frame in frames}) > 1:
            sizes = " and ".join(sorted({f"{frame.shape[0]} x {frame.shape[1]}" for frame in frames}))
            raise ImageError(
                f"the frames of {self.path} are of {sizes} pixels; all must have one size. Resize or remove them"
            )
        return np.stack(frames)

    def _frame(self, name: str) -> UInt8[np.ndarray, "H W 3"]:
        path = os.path.join(self.path, name)
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            raise ImageError(
                f"cannot read {path}: {error.strerror}; it was there when the folder was listed. Restore or remove it"
            ) from error
        return decode(data, 3, name=path)


def _parts(name: str) -> list[str]:
    return re.split(r"(\d+)", name)
