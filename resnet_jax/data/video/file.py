"""Video files: any frame by its number, decoded from the key frame before it."""

import os
from collections import deque
from collections.abc import Iterator
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float, Int, UInt8

from resnet_jax.data.orientation import upright, upright_shape
from resnet_jax.data.video.index import Index, Key, kept_index
from resnet_jax.data.video.opened import explained, open_video
from resnet_jax.errors import ImageError

if TYPE_CHECKING:
    from av import Packet, VideoFrame


class VideoFile:
    """A video of any kind that FFmpeg reads. Nothing is opened before a frame or the times are asked for.

    A frame is what PyAV's `frame.to_ndarray(format="rgb24")` gives when the file is read from its beginning, turned as
    its display matrix says. Interlaced frames are given as they are stored, woven. Pixels that are not square stay so.

    Args:
      path: of the file.
      threads: that decode this video; 0 = one for each core. Batches are made of many videos at once, so one is best
        there.
    """

    def __init__(self, path: str | os.PathLike[str], threads: int = 1) -> None:
        self.path = os.fspath(path)
        self._threads = threads
        self._decoder: _Decoder | None = None

    @cached_property
    def index(self) -> Index:
        """Where its frames are."""
        return kept_index(self.path)

    def times(self) -> Float[np.ndarray, " F"]:
        return self.index.times

    def read(self, indices: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n H W 3"]:
        """As `Video.read`. It goes on where the last call ended, unless a key frame is nearer."""
        index = self.index
        if np.any((indices < 0) | (indices >= len(index.pts))):
            raise IndexError(f"{self.path} has frames 0 to {len(index.pts) - 1}, and {indices} were asked for")
        wanted, places = np.unique(indices, return_inverse=True)
        out = np.empty((len(wanted), *upright_shape(index.height, index.width, index.turned), 3), np.uint8)
        for frame, number in zip(out, wanted.tolist(), strict=True):
            frame[...] = upright(self._frame(number), index.turned)
        return out if len(wanted) == len(indices) and np.all(np.diff(places) > 0) else out[places]

    def _frame(self, number: int) -> UInt8[np.ndarray, "H W 3"]:
        if self._decoder is None:
            self._decoder = _Decoder(self.path, self.index, self._threads)
        with explained(self.path):
            return self._decoder.frame(number)


class _Decoder:
    """Decodes a file forward, from a key frame or from the beginning."""

    def __init__(self, path: str, index: Index, threads: int) -> None:
        from av.video.reformatter import VideoReformatter

        self._path, self._index, self._threads = path, index, threads
        self._to_rgb = VideoReformatter()  # one for all frames: it keeps the tables of its conversion
        self._plainly = False
        self._open()

    def frame(self, number: int) -> UInt8[np.ndarray, "H W 3"]:
        """A frame by its number.

        Where decoding from a key frame does not give it, the file is read from its beginning from then on, without any
        short cut. If even that gives no such frame, the one before it is what a player shows at its time.

        Raises:
          ImageError: the frame is damaged.
        """
        found = self._find(number)
        if found is None and not self._plainly:
            self._plainly = True
            self._open()
            found = self._find(number)
        if found is None:
            found = self._before
        if found is None or found.is_corrupt:
            raise ImageError(
                f"frame {number} of {self._path} is damaged; the video must be whole. Replace or remove it"
            )
        return self._rgb(found)

    def _open(self) -> None:
        """Begins at the beginning."""
        self._container, self._stream = open_video(self._path, self._threads)
        self._skipped: Literal["NONREF", "DEFAULT"] = "DEFAULT"
        self._begin()

    def _begin(self) -> None:
        self._packets: Iterator[Packet] = self._container.demux(self._stream)
        self._ready: deque[VideoFrame] = deque()
        self._counted = 0
        self._number = -1
        self._frame: VideoFrame | None = None
        self._before: VideoFrame | None = None

    def _go(self, key: Key | None) -> None:
        """Goes to a key frame, or to one before it."""
        if key is None:
            self._open()
        else:
            # Most demuxers find a key frame by the time when it is shown, some by its time of decoding.
            for moment in (key.time, key.decoded):
                self._container.seek(moment, stream=self._stream)
                self._begin()
                first = next(self._packets, None)
                self._packets = chain([first] if first else [], self._packets)
                if first and first.pts is not None and first.pts <= key.time:
                    return

    def _find(self, number: int) -> "VideoFrame | None":
        """Decodes up to a frame. None if it is not among those that come, or damaged."""
        key = None if self._plainly else self._index.key_before(number)
        if self._number > number or (key is not None and self._number < key.number and key.number > 0):
            self._go(key)
        while self._number < number:
            self._before = self._frame
            self._number, self._frame = self._next(number)
        found = self._frame if self._number == number else None
        return None if found is not None and found.is_corrupt and not self._plainly else found

    def _next(self, wanted: int) -> "tuple[int, VideoFrame | None]":
        """The next frame and its number, or after the last one a number that no frame has."""
        by_time, pts = self._index.by_time, self._index.pts
        while not self._ready:
            packet = next(self._packets, None)
            if packet is None:
                return len(pts), None
            if by_time and not self._plainly:
                # What no other frame refers to need not be decoded before the frame that is wanted.
                needless = packet.pts is not None and packet.pts < pts[wanted]
                self._skip("NONREF" if needless else "DEFAULT")
            self._ready.extend(packet.decode())
        frame = self._ready.popleft()
        self._counted += 1
        if not by_time:
            return self._counted - 1, frame
        assert frame.pts is not None
        number = int(np.searchsorted(pts, frame.pts))
        return (number if number < len(pts) and pts[number] == frame.pts else self._number), frame

    def _skip(self, which: Literal["NONREF", "DEFAULT"]) -> None:
        if which != self._skipped:
            self._stream.codec_context.skip_frame = self._skipped = which

    def _rgb(self, frame: "VideoFrame") -> UInt8[np.ndarray, "H W 3"]:
        """As `frame.to_ndarray(format="rgb24")`, without its copy. Frames of other sizes are brought to the first's."""
        height, width = self._index.height, self._index.width
        pixels = self._to_rgb.reformat(frame, width=width, height=height, format="rgb24", threads=1)
        plane: Any = pixels.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(height, plane.line_size)
        return rows[:, : 3 * width].reshape(height, width, 3)
