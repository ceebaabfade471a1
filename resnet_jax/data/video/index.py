"""The index of a video file: the time of every frame and where decoding can begin. It is made once and kept."""

import contextlib
import hashlib
import json
import os
import tempfile
from array import array
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from resnet_jax.data.decode import check_pixels
from resnet_jax.data.video.opened import Opened, explained, open_video, turned_by
from resnet_jax.errors import ImageError
from resnet_jax.files import cache_folder

if TYPE_CHECKING:
    from av import VideoFrame

_VERSION = 1
# In these, each packet is a frame and says when it is shown. In others a packet may hold two frames or none, so all are
# decoded once to make the index.
_ONE_FRAME_A_PACKET = {"h264", "hevc", "av1", "vp9", "mjpeg", "png", "ffv1", "prores", "dnxhd", "rawvideo"}
_SAYS_TIMES = ("mov", "matroska", "webm")
_UNKNOWN = -(2**63)  # a time that a packet does not say
_KEY, _DISCARDED = 1, 2
_CUT = 0.9  # a file with a smaller share of the frames that its header counts was cut short


class Key(NamedTuple):
    """A key frame.

    Attributes:
      number: of the first frame that is shown from it on.
      time: when it is shown, in the index's unit.
      decoded: its time of decoding.
    """

    number: int
    time: int
    decoded: int


@dataclass(frozen=True)
class Index:
    """Where the frames of a video file are.

    Attributes:
      pts: the time of each frame, in units of `unit` seconds; growing.
      unit: seconds.
      keys: (time, time of decoding) of the packets from which on decoding can begin, in the order of time.
      by_time: whether a decoded frame is known by its time. Otherwise frames are counted from the beginning.
      height: of the first frame, as it is stored.
      width: of the first frame, as it is stored.
      turned: how players turn it, as EXIF's orientation.
    """

    pts: Int[np.ndarray, " F"]
    unit: Fraction
    keys: Int[np.ndarray, "K 2"]
    by_time: bool
    height: int
    width: int
    turned: int

    def key_before(self, number: int) -> Key | None:
        """The last key frame from which on a frame can be decoded; None where it is not known."""
        place = int(np.searchsorted(self.keys[:, 0], self.pts[number], "right")) - 1
        if place < 0:
            return None
        time, decoded = self.keys[place].tolist()
        return Key(int(np.searchsorted(self.pts, time)), time, decoded)

    @property
    def times(self) -> Float[np.ndarray, " F"]:
        """In seconds, from 0."""
        return (self.pts - self.pts[0]) * float(self.unit)


def kept_index(path: str) -> Index:
    """The index of a file, from the user's cache folder if the file is as it was when its index was made.

    Raises:
      ImageError: as `make_index`.
    """
    try:
        state = os.stat(path)
    except OSError as error:
        raise ImageError(
            f"cannot read {path}: {error.strerror}; it was there when the folder was listed. Restore or remove it"
        ) from error
    mark = {"version": _VERSION, "file": os.path.abspath(path), "bytes": state.st_size, "changed": state.st_mtime_ns}
    # The files of a data set, spread over folders: some file systems are slow with a million files in one.
    digest = hashlib.sha256(os.fsencode(os.path.abspath(path))).hexdigest()
    place = cache_folder() / "videos" / digest[:2] / f"{digest[2:40]}.index"
    index = _read(place, mark)
    if index is None:
        index = make_index(path)
        _write(place, mark, index)
    return index


def make_index(path: str) -> Index:
    """Reads all packets of a file, and decodes the first frame; all frames where packets do not say which there are.

    Raises:
      ImageError: the file cannot be read, was cut short, or has no frame.
    """
    opened = open_video(path)
    with opened.container, explained(path):
        packets, first = _packets(opened)
        stream = opened.stream
        unit, counted, rate = stream.time_base, stream.frames, stream.average_rate
        trusted = _are_frames(opened, packets)
    if first is None:
        raise ImageError(f"{path} has no frame that can be decoded; it must be a whole video. Replace or remove it")
    if len(packets) < _CUT * counted:
        raise ImageError(
            f"{path} was cut short: it says that it has {counted} frames, and {len(packets)} are there. Replace it"
        )
    if not counted and (lacking := _lacks(path, packets)):
        raise ImageError(f"{path} was cut short: {lacking}. Replace it")
    check_pixels(first.height, first.width, path)
    keys = packets[(packets[:, 2] & _KEY > 0) & (packets[:, :2] != _UNKNOWN).all(1), :2]
    keys = keys[np.argsort(keys[:, 0], kind="stable")]
    by_time = True
    if trusted:
        # Frames before the first that can be decoded lack what they refer to. Nobody sees them.
        pts = np.sort(packets[packets[:, 2] & _DISCARDED == 0, 0])
        pts = pts[pts >= first.pts]
    else:
        pts = _times_of_frames(path)
        grows = bool((pts != _UNKNOWN).all() and (np.diff(pts) > 0).all())
        if not grows:
            pts, unit = np.arange(len(pts)), 1 / (rate or Fraction(25))
        if not (grows and np.isin(pts, packets[:, 0]).all()):
            by_time, keys = False, keys[:0]
    return Index(pts, unit or Fraction(1), keys, by_time, first.height, first.width, turned_by(first, path))


def _packets(opened: Opened) -> tuple[Int[np.ndarray, "P 3"], "VideoFrame | None"]:
    """Of each packet its time, its time of decoding and its flags; and the first frame."""
    numbers, first = array("q"), None
    for packet in opened.container.demux(opened.stream):
        if first is None:
            first = next(iter(packet.decode()), None)
        if packet.size:
            flags = _KEY * packet.is_keyframe + _DISCARDED * packet.is_discard
            numbers.extend([_UNKNOWN if time is None else time for time in (packet.pts, packet.dts)])
            numbers.append(flags)
    return np.array(numbers, np.int64).reshape(-1, 3), first


def _lacks(path: str, packets: Int[np.ndarray, "P 3"]) -> str:
    """What is missing of a file whose header has a duration and no count, as Matroska's; empty if nothing is.

    The duration is that of the longest stream. So the other streams are only looked at where the pictures end early.
    """
    opened = open_video(path)
    with opened.container, explained(path):
        if "matroska" not in opened.container.format.name:  # of others the duration may be a guess
            return ""
        whole, unit = (opened.container.duration or 0) / 1e6, float(opened.stream.time_base or 0)
        ends = packets[packets[:, 0] != _UNKNOWN, 0].max(initial=0) * unit
        if ends < _CUT * whole:
            others = (packet.pts * packet.time_base for packet in opened.container.demux() if packet.pts is not None)
            ends = float(max(others, default=0))
    if ends >= _CUT * whole - 1:  # a second: that a last frame may last
        return ""
    return f"it says that it lasts {whole:.1f} seconds, and ends after {ends:.1f}"


def _are_frames(opened: Opened, packets: Int[np.ndarray, "P 3"]) -> bool:
    """Whether each packet is a frame and says when it is shown."""
    kept = packets[packets[:, 2] & _DISCARDED == 0, 0]
    return (
        opened.stream.codec_context.name in _ONE_FRAME_A_PACKET
        and any(name in opened.container.format.name for name in _SAYS_TIMES)
        and bool((packets[:, 0] != _UNKNOWN).all())
        and len(np.unique(kept)) == len(kept)
    )


def _times_of_frames(path: str) -> Int[np.ndarray, " F"]:
    opened = open_video(path)
    with opened.container, explained(path):
        times = (frame.pts for frame in opened.container.decode(opened.stream))
        return np.array([_UNKNOWN if time is None else time for time in times], np.int64)


def _write(place: Path, mark: dict[str, Any], index: Index) -> None:
    """Keeps an index. Where that cannot be done it is made again next time."""
    facts = {name: getattr(index, name) for name in ("by_time", "height", "width", "turned")}
    numbers = {"frames": len(index.pts), "keys": len(index.keys), "unit": str(index.unit)}
    head = json.dumps({"mark": mark, "facts": facts, **numbers}).encode() + b"\n"
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        # Several threads and processes may keep the same index: each writes a file of its own, and moves it there.
        file, partial = tempfile.mkstemp(dir=place.parent, suffix=".partial")
        with os.fdopen(file, "wb") as out:
            out.write(head + index.pts.tobytes() + index.keys.tobytes())
        os.replace(partial, place)


def _read(place: Path, mark: dict[str, Any]) -> Index | None:
    """The index that was kept for the file with this mark. None if there is none, or it is damaged."""
    try:
        head, _, data = place.read_bytes().partition(b"\n")
        known = json.loads(head)
        frames, keys = known["frames"], known["keys"]
        if known["mark"] != mark or len(data) != 8 * (frames + 2 * keys):
            return None
        numbers = np.frombuffer(data, np.int64)
        return Index(numbers[:frames], Fraction(known["unit"]), numbers[frames:].reshape(-1, 2), **known["facts"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
