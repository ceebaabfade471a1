"""Writes small videos of every kind with PyAV."""

from fractions import Fraction

import av
import cv2
import numpy as np


def pictures(count, height=66, width=98, seed=0):
    """Frames of a moving pattern, each different from every other."""
    rng = np.random.default_rng(seed)
    ground = cv2.GaussianBlur(rng.integers(0, 256, (2 * height, 2 * width, 3), np.uint8), (0, 0), 3)
    ground = cv2.normalize(ground, None, 0, 255, cv2.NORM_MINMAX)
    frames = np.stack([np.roll(ground, (3 * i, 2 * i), (0, 1))[:height, :width] for i in range(count)])
    for i, frame in enumerate(frames):
        frame[:8, :8] = 5 * i % 256
    return frames


def write_video(path, frames, *, codec="libx264", pixels="yuv420p", rate=30, times=None, options=None, turned=None):
    """Writes `frames` (F, H, W, 3).

    Args:
      times: of the frames in milliseconds; None = at `rate`.
      turned: (degrees, hflip) of the display matrix.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        if turned is not None:
            stream.set_display_rotation(turned[0], hflip=turned[1])
        for i, pixels_of_frame in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels_of_frame), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = int(times[i]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path, picture=None):
    """A file of sound, with a picture as on an album."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        if picture is not None:
            cover = container.add_stream("mjpeg", rate=1)
            cover.height, cover.width, cover.pix_fmt = *picture.shape[:2], "yuvj420p"
            cover.disposition = av.stream.Disposition.attached_pic
            container.mux(cover.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(cover.encode())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def decoded(path):
    """Times in seconds and frames, as PyAV gives them from the beginning to the end of a file."""
    with av.open(str(path)) as container:
        found = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    times, frames = zip(*found, strict=True)
    return np.array(times), np.stack(frames)
