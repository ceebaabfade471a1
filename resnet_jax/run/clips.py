"""Videos and their clips: how right a network is on a split, and what it says of video files over time."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, PyTree, UInt8

from resnet_jax import data
from resnet_jax.compress import Folded
from resnet_jax.config import ClipConfig, Clips, Config, DataConfig, Preset
from resnet_jax.data import normalize
from resnet_jax.data.sources.folder import is_image
from resnet_jax.data.video import EvalClip, FrameFolder, Video, VideoFile
from resnet_jax.data.video.fills import write_clips
from resnet_jax.data.video.sampling import eval_frames
from resnet_jax.errors import ConfigError, DataError
from resnet_jax.run.evaluate import passing, split_and_pass
from resnet_jax.run.evaluate_network import labels_of
from resnet_jax.run.network import Network, describe
from resnet_jax.run.predict import Run
from resnet_jax.tasks.assemble import build_model
from resnet_jax.tasks.classify.measure import count, report_in_detail
from resnet_jax.tasks.classify.report import EvalReport
from resnet_jax.tasks.clips.look import CLIP, LENGTH, Look, make_look, of_videos
from resnet_jax.tasks.clips.measure import make_measure
from resnet_jax.tasks.clips.measure import report as report_of
from resnet_jax.tasks.table import task_of
from resnet_jax.training.accumulate import Batch
from resnet_jax.training.evaluate import Measure, Measured, make_pass
from resnet_jax.training.state import TrainState

PUBLISHED = ClipConfig(frames=16, rate=15.0, eval_clips=5)
"""The clips on which torchvision's published accuracies were measured."""
AT_MOST = 16
"""How many clips of a video are looked at, spread over it."""


class Seen(NamedTuple):
    """How right a network is on the videos of a split.

    Attributes:
      videos: of whole videos, in detail.
      clips: `clip_top1` and `clip_top5`, of single clips.
    """

    videos: EvalReport
    clips: dict[str, float]


def evaluate_videos(config: Config, state: TrainState, folded: Folded | None = None) -> Seen:
    """As `evaluate.evaluate_in_detail`, of a run whose task is `Clips`."""
    task = task_of(config)
    model, variables = folded[:2] if folded else (build_model(config), state.eval_variables)
    _, look = split_and_pass(config.evaluations[0], config, task, _in_detail(make_look(model, task.prepare)))
    return _seen(*look(variables))


def evaluate_video_network(network: Network, config: DataConfig, batch_size: int) -> Seen:
    """The report of `config.eval_split` of a network without a run. Clips are those of `config.clip`, and frames are
    prepared as the weights want them.

    Raises:
      DataError: the split or a video cannot be read.
      ConfigError: its classes are not those of the network.
    """
    source = data.load_source(config, config.eval_split)
    if text := data.missing_leaves(source, EvalClip.needs, "an evaluation of clips", f"data.name = {config.name}"):
        raise ConfigError(text)
    labels = labels_of(source.class_names, network.class_names, config.name)
    fill = EvalClip(network.preset, config.clip, tuple(labels.tolist()))
    measure = _in_detail(make_look(network.model, _prepare(network.preset)))
    return _seen(*make_pass(measure, **passing(source, config, fill, batch_size))(network.variables))


def _prepare(preset: Preset) -> Callable[..., Batch]:
    return lambda key, batch: {**batch, CLIP: normalize(batch[CLIP], preset)}


def _in_detail(look: Look) -> Measure:
    """What is counted of single clips, and of whole videos as of images."""
    of_clips = make_measure(look)

    def measure(variables: PyTree[Array], batch: Batch, real: Bool[Array, " N"]) -> Measured:
        whole = count(of_videos(look(variables, batch)), batch["label"], real, in_detail=True)
        return Measured({**of_clips(variables, batch, real).sums, **whole}, {})

    return measure


def _seen(sums: Any, rows: Any) -> Seen:
    numbers = report_of(sums, rows)
    return Seen(report_in_detail(sums, rows), {name: numbers[name] for name in ("clip_top1", "clip_top5")})


@dataclass(frozen=True)
class VideoPredictor:
    """How to read a video for a network, and what it says of clips.

    Attributes:
      preset: how frames are prepared.
      clips: how frames are taken.
      probabilities: clips (V, T, S, S, C) and lengths (V,) -> (V, K); compiled.
      note: how frames are prepared, where people may want to know.
    """

    title: str
    class_names: Sequence[str]
    preset: Preset
    clips: ClipConfig
    probabilities: Callable[[UInt8[np.ndarray, "V T S S C"], np.ndarray], Float[Array | np.ndarray, "V K"]]
    note: str = ""


class OverTime(NamedTuple):
    """What is on a video, clip by clip.

    Attributes:
      start, end: of each clip, in seconds: when its first and its last frame are shown.
      middles: the middle frame of each clip, as the network sees it.
      clips: probabilities of each clip; `video`, their mean.
    """

    path: Path
    start: Float[np.ndarray, " V"]
    end: Float[np.ndarray, " V"]
    middles: UInt8[np.ndarray, "V S S C"]
    clips: Float[np.ndarray, "V K"]
    video: Float[np.ndarray, " K"]


def video_predictor_of(opened: Run | Network, clips: ClipConfig = PUBLISHED) -> VideoPredictor:
    """What a network says of the clips of video files.

    Args:
      opened: a run whose task is `Clips`, or a network for clips.
      clips: without a run: how frames are taken.
    """
    if isinstance(opened, Run):
        assert isinstance(opened.config.task, Clips)
        said, variables = opened.task.predict, opened.state.eval_variables
        program = jax.jit(lambda v, x, n: said(v, {CLIP: x, LENGTH: n})["probability"])
        preset, clips, note = opened.config.data.preset, opened.config.data.clip, ""
    else:
        look, variables, preset = make_look(opened.model, _prepare(opened.preset)), opened.variables, opened.preset
        program = jax.jit(lambda v, x, n: jax.nn.softmax(look(v, {CLIP: x, LENGTH: n})[:, 0]))
        note = f"{describe_clips(clips)}; {describe(preset)}"
    return VideoPredictor(opened.title, opened.class_names, preset, clips, partial(program, variables), note)


def describe_clips(clips: ClipConfig) -> str:
    """How the frames of clips are taken, for people."""
    if clips.sampling == "uniform":
        return f"clips of {clips.frames} frames, each out of an equal part of the video"
    rate = f" of {clips.rate:g} frames per second" if clips.rate else ""
    step = f" with a step of {clips.step}" if clips.step > 1 else ""
    return f"clips of {clips.frames} frames{rate}{step}"


def videos_named(words: Sequence[str]) -> list[Path]:
    """The videos that the words of a command line name: files, and folders, whose images are the frames of a video, or
    which hold videos.

    Raises:
      DataError: there is no such file, or a folder holds neither.
    """
    found: list[Path] = []
    for path in map(Path, words):
        if not path.exists():
            raise DataError(f"there is no {path}; name a video, or a folder of videos or of the frames of one")
        if not path.is_dir() or any(map(is_image, os.listdir(path))):
            found.append(path)
            continue
        inside = sorted(one for one in path.iterdir() if not one.name.startswith(".") and not one.is_dir())
        if not inside:
            raise DataError(f"the folder {path} holds neither videos nor frames; name one that does")
        found += inside
    return found


def predictions_over_time(
    predictor: VideoPredictor, paths: Sequence[Path], batch_size: int, broken: list[str]
) -> Iterator[OverTime]:
    """Each video that can be read. Its clips lie one after the other, or apart where there would be more than 16.

    Args:
      broken: for each video that could not be read, a text that names the file is added.
    """
    for path in paths:
        try:
            yield _over_time(predictor, path, _open(path, predictor.clips), batch_size)
        except DataError as error:
            broken.append(str(error))


def read_clips(
    path: str | Path, preset: Preset, clips: ClipConfig = PUBLISHED
) -> tuple[UInt8[np.ndarray, "V T S S C"], Int32[np.ndarray, " V"]]:
    """The clips of a video in bytes, as evaluation shows them to a network, and how many frames of each are the
    video's. The others repeat the last of them.

    Args:
      path: a video, or a folder with the frames of one.
      preset: how frames are prepared.
      clips: how they are taken. There are `eval_clips * eval_crops`, the crops of the first clip first.

    Raises:
      DataError: there is no such video, it cannot be read, or the folder holds several.
    """
    found = videos_named([str(path)])
    if len(found) > 1:
        raise DataError(f"the folder {path} holds {len(found)} videos; name one of them, such as {found[0]}")
    return _clips_of(_open(found[0], clips), found[0], preset, clips)


def _clips_of(
    video: Video, path: Path, preset: Preset, clips: ClipConfig
) -> tuple[UInt8[np.ndarray, "V T S S C"], Int32[np.ndarray, " V"]]:
    count = clips.eval_clips * clips.eval_crops
    pixels = np.empty((count, clips.frames, preset.crop, preset.crop, preset.channels), np.uint8)
    lengths = write_clips(pixels, {"video": video, "name": str(path)}, preset, clips)
    return pixels, lengths.astype(np.int32)


def _open(path: Path, clips: ClipConfig) -> Video:
    if path.is_dir():
        return FrameFolder(str(path), [name for name in os.listdir(path) if is_image(name)], clips.folder_rate)
    return VideoFile(path, threads=0)


def _over_time(predictor: VideoPredictor, path: Path, video: Video, batch_size: int) -> OverTime:
    times, preset = video.times(), predictor.preset
    one = replace(predictor.clips, eval_clips=1, eval_crops=1)
    (shown,), _ = eval_frames(times, one)
    frame = (times[-1] - times[0]) / max(len(times) - 1, 1)
    span = times[shown[-1]] - times[shown[0]] + frame
    count = int(np.clip(np.ceil((times[-1] + frame) / span - 1e-6), 1, AT_MOST)) if span else 1
    clips = replace(one, eval_clips=count)
    pixels, lengths = _clips_of(video, path, preset, clips)
    indices, _ = eval_frames(times, clips)
    rows = []
    for start in range(0, count, batch_size):
        part = slice(start, start + batch_size)
        padding = max(start + batch_size - count, 0)  # all batches have one size, and one program
        padded = [np.concatenate([x[part], np.repeat(x[:1], padding, axis=0)]) for x in (pixels, lengths)]
        rows.append(np.asarray(predictor.probabilities(*padded))[: len(lengths[part])])
    said = np.concatenate(rows)
    middles = pixels[np.arange(count), (lengths - 1) // 2]
    return OverTime(path, times[indices[:, 0]], times[indices[:, -1]], middles, said, said.mean(axis=0))
