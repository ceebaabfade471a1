"""How the host turns a video into a row of a batch: clips whose frames are cropped and changed alike."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import UInt8

from resnet_jax.config import ClipConfig, DataConfig, Preset
from resnet_jax.data.decode import to_channels
from resnet_jax.data.fills import CROP, POLICY, Draws, Leaves, Row
from resnet_jax.data.joint import draw_place
from resnet_jax.data.policies import apply_policy
from resnet_jax.data.resample import Box
from resnet_jax.data.transforms import (
    center_box,
    colour_beside,
    random_crop_box,
    resize_and_center_crop,
    resize_square_into,
    resize_window,
    shape_of,
)
from resnet_jax.data.video.sampling import eval_frames, train_frames

FRAMES = 3
"""The number of the random stream that says which frames a clip shows."""


@dataclass(frozen=True)
class TrainClip:
    """Writes a clip of a video, cropped and changed as `config` says for the host; every frame in the same way.

    The row: `clip` uint8 (T, S, S, C). `length` int32, how many frames are the video's; the others repeat the last of
    them. `label` int32.
    """

    config: DataConfig
    needs = ("video", "label")

    @property
    def leaves(self) -> Leaves:
        size, config = self.config.train_size, self.config
        shape = (config.clip.frames, size, size, config.channels)
        return {"clip": (shape, np.uint8), "length": ((), np.int32), "label": ((), np.int32)}

    def __call__(self, example: Mapping[str, Any], draws: Draws, row: Row) -> None:
        config, video, clip = self.config, example["video"], row["clip"]
        indices, (length,) = train_frames(video.times(), config.clip, draws.stream(FRAMES))
        for out, frame in zip(clip, video.read(indices[0, :length]), strict=False):
            # Each frame draws from the start of the same streams, so all frames get the same crop and policy.
            frame = to_channels(frame, config.channels, name=example["name"])
            self._crop_into(out, frame, draws.stream(CROP))
            if config.augment.policy != "none":
                out[...] = apply_policy(out, draws.stream(POLICY), config.augment, colour_beside(config.mean))
        clip[length:] = clip[length - 1]
        row["length"][...], row["label"][...] = length, example["label"]

    def _crop_into(
        self, out: UInt8[np.ndarray, "S S C"], frame: UInt8[np.ndarray, "H W C"], rng: np.random.Generator
    ) -> None:
        config, size = self.config, len(out)
        if config.clip.train_resize:
            low, high = config.clip.train_resize
            place = draw_place(rng, frame.shape, base=1, scale=(low, high), crop=size, flip=False)
            out[...] = resize_window(frame, place.shape, "bilinear", (place.top, place.left, size, size))
        elif config.augment.random_resized_crop:
            top, left, height, width = random_crop_box(
                rng, frame.shape[0], frame.shape[1], config.augment.crop_min_area
            )
            resize_square_into(out, frame[top : top + height, left : left + width])
        else:
            out[...] = resize_and_center_crop(frame, replace(config.preset, crop=size))


@dataclass(frozen=True)
class EvalClip:
    """Writes all clips and crops of a video into one row, so that an evaluation counts each video once.

    The row, V being `clip.eval_clips * clip.eval_crops`, the crops of the first clip first: `clip` uint8
    (V, T, S, S, C). `length` int32 (V,), how many frames are the video's; the others repeat the last of them. `label`
    int32.

    Attributes:
      preset: how frames are prepared.
      clip: which frames are taken.
      labels: the class that is written for each class of the data set; None = the same class.
    """

    preset: Preset
    clip: ClipConfig
    labels: tuple[int, ...] | None = None
    needs = ("video", "label")

    @property
    def leaves(self) -> Leaves:
        count, size = self.clip.eval_clips * self.clip.eval_crops, self.preset.crop
        shape = (count, self.clip.frames, size, size, self.preset.channels)
        return {"clip": (shape, np.uint8), "length": ((count,), np.int32), "label": ((), np.int32)}

    def __call__(self, example: Mapping[str, Any], draws: Draws, row: Row) -> None:
        row["length"][...] = write_clips(row["clip"], example, self.preset, self.clip)
        row["label"][...] = example["label"] if self.labels is None else self.labels[example["label"]]


def write_clips(
    out: UInt8[np.ndarray, "V T S S C"], example: Mapping[str, Any], preset: Preset, clip: ClipConfig
) -> np.ndarray:
    """Writes the clips of `EvalClip`. Returns the lengths (V,)."""
    video, crops = example["video"], clip.eval_crops
    indices, length = eval_frames(video.times(), clip)
    places = out.reshape(clip.eval_clips, crops, *out.shape[1:])
    wanted = np.unique(indices)  # a frame of several clips is decoded and resized once
    # In parts, since all frames together may need much memory before they are resized.
    for part in np.split(wanted, np.arange(clip.frames, len(wanted), clip.frames)):
        for index, frame in zip(part, video.read(part), strict=True):
            frame = to_channels(frame, preset.channels, name=example["name"])
            which, time = np.nonzero(indices == index)
            for crop, pixels in enumerate(_crops(frame, preset, crops)):
                places[which, crop, time] = pixels
    return np.repeat(length, crops)


def _crops(frame: UInt8[np.ndarray, "H W C"], preset: Preset, count: int) -> Iterator[UInt8[np.ndarray, "S S C"]]:
    if count == 1:
        yield resize_and_center_crop(frame, preset)
        return
    shape = shape_of(frame.shape, preset)
    for box in three_boxes(shape, preset):
        yield resize_window(frame, shape, preset.interpolation, box, antialias=preset.antialias)


def three_boxes(shape: tuple[int, int], preset: Preset) -> list[Box]:
    """Squares at the beginning, in the middle and at the end of the longer side (Wang et al. 2018, arXiv:1711.07971,
    section 4.1)."""
    top, left, height, width = center_box(shape, preset)
    tall = shape[0] > shape[1]
    ends = (0, top if tall else left, max(shape) - preset.crop)
    return [(start, left, height, width) if tall else (top, start, height, width) for start in ends]
