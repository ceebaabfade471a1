"""Which frames of a video a clip shows.

A clip of a given rate shows what a player shows at its times, so variable frame rates need nothing else. In evaluation
clips begin where `UniformClipSampler` of torchvision/datasets/samplers/clip_sampler.py lets them begin.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from resnet_jax.config import ClipConfig

_FORGIVEN = 0.1  # of a frame's length: some containers round the times of frames to milliseconds


class Shown(NamedTuple):
    """The frames of clips.

    Attributes:
      indices: of the frames, in the order of time. Where the video is too short, the last one is repeated.
      length: how many of them are no repetitions.
    """

    indices: Int[np.ndarray, "V T"]
    length: Int[np.ndarray, " V"]


def train_frames(times: Float[np.ndarray, " F"], config: ClipConfig, rng: np.random.Generator) -> Shown:
    """One clip, which begins anywhere in the video, or with a random frame out of each part of the video.

    Args:
      times: of all frames, see `Video`.
    """
    frames = np.arange(config.frames)
    if config.sampling == "uniform":
        return _uniform(times, config.frames, (frames + rng.random(config.frames))[None])
    grid = _Grid.of(times, config)
    # On the video's own frames a clip begins with a frame; otherwise between two of them too.
    start = rng.integers(grid.starts) if config.rate is None else rng.random() * grid.starts
    return grid.indices(np.array([start]), config)


def eval_frames(times: Float[np.ndarray, " F"], config: ClipConfig) -> Shown:
    """`config.eval_clips` clips (V), spread evenly over the video, always the same. The first begins with the video and
    the last ends with it."""
    count = config.eval_clips
    if config.sampling == "uniform":
        return _uniform(times, config.frames, np.arange(config.frames) + (np.arange(count)[:, None] + 0.5) / count)
    grid = _Grid.of(times, config)
    return grid.indices(np.floor(np.linspace(0, grid.starts - 1, count) + 1e-9), config)


class _Grid(NamedTuple):
    """The places of a video at which the frames of a dense clip may lie: its own frames, or one for each 1 / rate.

    Attributes:
      times: of the video's frames, in places.
      places: how many there are.
      starts: at how many of them a clip may begin.
    """

    times: Float[np.ndarray, " F"]
    places: int
    starts: int

    @classmethod
    def of(cls, times: Float[np.ndarray, " F"], config: ClipConfig) -> "_Grid":
        if config.rate is None:
            times, places = np.arange(len(times), dtype=float), len(times)
        else:
            # A place counts if it ends before the video does, as in torchvision.
            places = max(int(duration(times) * config.rate + 1e-6), 1)
            times = times * config.rate
        return cls(times, places, max(places - (config.frames - 1) * config.step, 1))

    def indices(self, starts: Float[np.ndarray, " V"], config: ClipConfig) -> Shown:
        length = min(config.frames, -(-self.places // config.step))
        steps = np.minimum(np.arange(config.frames), length - 1) * config.step
        return Shown(_shown_at(self.times, starts[:, None] + steps), np.full(len(starts), length))


def _uniform(times: Float[np.ndarray, " F"], frames: int, places: Float[np.ndarray, "V T"]) -> Shown:
    """The frames at these places of a video that is cut into `frames` parts; all frames of a shorter video."""
    if len(times) < frames:
        all_frames = np.minimum(np.arange(frames), len(times) - 1)
        return Shown(np.tile(all_frames, (len(places), 1)), np.full(len(places), len(times)))
    return Shown(_shown_at(times, places * (duration(times) / frames)), np.full(len(places), frames))


def _shown_at(times: Float[np.ndarray, " F"], moments: Float[np.ndarray, "V T"]) -> Int[np.ndarray, "V T"]:
    """The frames that a player shows at these moments."""
    found = np.searchsorted(times, moments + _FORGIVEN * _interval(times), "right") - 1
    return np.clip(found, 0, len(times) - 1)


def duration(times: Float[np.ndarray, " F"]) -> float:
    """How long a video lasts. Its last frame is taken to last as long as most."""
    return float(times[-1]) + _interval(times)


def _interval(times: Float[np.ndarray, " F"]) -> float:
    return float(np.median(np.diff(times))) if len(times) > 1 else 0.0
