"""Opens video files with PyAV, whose wheels hold FFmpeg's libraries. Nothing else imports it."""

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from resnet_jax.errors import DataError, ImageError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

# A file is what its bytes say, whatever its name ends in. Demuxers that open other files or addresses, as those of
# playlists do, are not among these.
_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,matroska,webm,avi,gif,apng,mpegts,mpeg,mpegvideo,flv,asf,ogg,mxf,ivf,h264,hevc,m4v,"
    "yuv4mpegpipe",
}


class Opened(NamedTuple):
    """A video file that is open, and its stream of pictures."""

    container: "InputContainer"
    stream: "VideoStream"


def open_video(path: str | os.PathLike[str], threads: int = 1) -> Opened:
    """Opens a file at its beginning.

    Args:
      threads: that decode this video, over slices and frames; 0 = one for each core.

    Raises:
      ImageError: no such file, none that FFmpeg reads, or one without a stream of pictures.
      DataError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise DataError(
            f"{path} needs the package av; install it with: pip install av (the extra `video` has it)"
        ) from error
    with explained(path):
        # An absolute path holds no protocol, such as `concat:`.
        container = av.open(os.path.abspath(path), options=_OPTIONS)
    # The picture of an album in a sound file is a stream too.
    picture = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if picture not in stream.disposition]
    if not streams:
        sound = f"; it has {len(container.streams.audio)} of sound" if container.streams.audio else ""
        container.close()
        raise ImageError(f"{path} has no stream of pictures{sound}; it must be a video. Replace or remove it")
    (stream, *_) = streams
    stream.thread_type, stream.thread_count = ("AUTO", threads) if threads != 1 else ("SLICE", 1)
    return Opened(container, stream)


@contextlib.contextmanager
def explained(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns an error of FFmpeg into an ImageError that names the file."""
    import av

    try:
        yield
    except (av.FFmpegError, OSError) as error:
        raise ImageError(
            f"cannot read {path}: {getattr(error, 'strerror', None) or error}; it must be a whole video that FFmpeg "
            "reads. Replace or remove it"
        ) from error


# What the first two rows of a display matrix say, by their signs, as the numbers of EXIF's orientation
# (libavutil/display.h). The row a, b is where a step to the right goes, c, d where a step down goes.
_ORIENTATIONS = {
    (1, 0, 0, 1): 1,
    (-1, 0, 0, 1): 2,
    (-1, 0, 0, -1): 3,
    (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5,
    (0, 1, -1, 0): 6,
    (0, -1, -1, 0): 7,
    (0, -1, 1, 0): 8,
}


def turned_by(frame: "VideoFrame", path: str | os.PathLike[str]) -> int:
    """How players turn a frame, as `orientation.upright` takes it.

    Raises:
      ImageError: by no multiple of 90 degrees.
    """
    entries: Any = frame.side_data  # PyAV's annotations say that it is a mapping
    data = {entry.type.name: entry for entry in entries}.get("DISPLAYMATRIX")
    if data is None:
        return 1
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
    # A matrix of cosines has nearly zeros, and may scale.
    largest = max(map(abs, (a, b, c, d)))
    signs = tuple(0 if abs(value) < largest / 100 else 1 if value > 0 else -1 for value in (a, b, c, d))
    if signs not in _ORIENTATIONS:
        raise ImageError(
            f"{path} is to be turned by {frame.rotation} degrees; it must be a multiple of 90. Turn it and save it anew"
        )
    return _ORIENTATIONS[signs]
