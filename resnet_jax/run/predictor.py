"""Classifies image files with a network from a run, from a weight file, or with published weights."""

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from resnet_jax.config import AS_PUBLISHED, PresetChange
from resnet_jax.data import load_image, normalize
from resnet_jax.data.sources.folder import is_data, is_image
from resnet_jax.errors import ConfigError, DataError
from resnet_jax.run.named import check_classifies, open_named
from resnet_jax.run.network import Network, describe
from resnet_jax.run.predict import Run, predict

Pixels = UInt8[np.ndarray, "S S C"]


class Prediction(NamedTuple):
    """One image: its file, what the network saw of it, and the probabilities of its classes."""

    path: Path
    pixels: Pixels
    probabilities: Float[np.ndarray, " K"]


@dataclass(frozen=True)
class Predictor:
    """How to read an image for a network, and the network's predictions for a batch of images.

    Attributes:
      load: a path -> pixels of one size. Raises DataError.
      probabilities: pixels (N, S, S, C) -> (N, K); compiled.
      note: how images are prepared, where people may want to know.
    """

    title: str
    class_names: Sequence[str]
    load: Callable[[Path], Pixels]
    probabilities: Callable[[UInt8[np.ndarray, "N S S C"]], Float[Array, "N K"]]
    note: str = ""


def load_predictor(
    network: str,
    checkpoint: Literal["last", "best"] = "last",
    model: str | None = None,
    *,
    exif: bool = False,
    preset: PresetChange = AS_PUBLISHED,
) -> Predictor:
    """The predictor of the network that the first word of a command names. Arguments and errors are those of
    `open_to_predict`, and of `predictor_of`."""
    return predictor_of(open_to_predict(network, checkpoint, model, exif=exif, preset=preset), exif=exif)


def open_to_predict(
    network: str,
    checkpoint: Literal["last", "best"] = "last",
    model: str | None = None,
    *,
    exif: bool = False,
    preset: PresetChange = AS_PUBLISHED,
) -> Run | Network:
    """The run or the network that the first word of a command names, where it can prepare images as it is asked to.

    Args:
      network: a run's folder, a weight file, or a published set: `resnet50` or `resnet50:IMAGENET1K_V1`.
      checkpoint: the checkpoint to take, where `network` is a run.
      model: the name of the network in a file; by default its keys and shapes decide.
      exif: turn photographs upright; where `network` is a run, its config decides.
      preset: how images are prepared, where it is not as the weights say; where `network` is a run, its config decides.

    Raises:
      ConfigError, CheckpointError, WeightsError: `network` names no network, or the network cannot be read.
    """
    trained = open_named(network, checkpoint, model, preset=preset)
    if isinstance(trained, Network):
        return trained
    if exif and not trained.config.data.exif:
        raise ConfigError(
            f"--exif is for weights without a run; {network} was trained with data.exif = False, and prepares images "
            "as it did then. Leave it out, or train with --data.exif"
        )
    if preset != AS_PUBLISHED:
        raise ConfigError(
            f"--preset is for weights without a run; {network} says itself how its images are prepared. Leave it out"
        )
    return trained


def predictor_of(opened: Run | Network, *, exif: bool = False) -> Predictor:
    """What a network says of image files. Without a run, they are prepared as its weights want them.

    Args:
      exif: without a run: turn photographs upright first.

    Raises:
      ConfigError: the network names a class for each pixel.
    """
    check_classifies(opened)
    if isinstance(opened, Run):
        preset = opened.config.data.preset
        return Predictor(
            title=opened.title,
            class_names=opened.class_names,
            load=lambda path: load_image(path, preset),
            probabilities=jax.jit(lambda pixels: predict(opened, pixels)["probability"]),
        )
    net, preset = opened.model, replace(opened.preset, exif=exif)
    program = jax.jit(lambda v, x: jax.nn.softmax(net.apply(v, normalize(x, preset), train=False)))
    return Predictor(
        title=opened.title,
        class_names=opened.class_names,
        load=lambda path: load_image(path, preset),
        probabilities=lambda pixels: program(opened.variables, pixels),
        note=describe(preset),
    )


def expand(images: Sequence[str]) -> list[Path]:
    """The files that the words of a command line name: files, all images of a folder, or files that match a pattern.

    A word that is the name of a file or folder means that file or folder, whatever characters it has.

    Raises:
      DataError: a folder without images, or a pattern that nothing matches.
    """
    paths: list[Path] = []
    for word in images:
        if os.path.isdir(word):
            found = [Path(at, name) for at, _, names in _walk(word) for name in sorted(names) if _is_wanted(name)]
            if not found:
                raise DataError(f"the folder {word} holds no image; name files, or a folder that holds some")
        elif os.path.lexists(word) or not glob.has_magic(word):
            found = [Path(word)]
        else:
            found = [Path(name) for name in sorted(glob.glob(word, recursive=True)) if os.path.isfile(name)]
            if not found:
                raise DataError(f"no file matches {word!r}; correct the pattern")
        paths += found
    return paths


def predictions(
    predictor: Predictor, paths: Sequence[Path], batch_size: int, broken: list[str]
) -> Iterator[Prediction]:
    """Each image that can be read. All batches have one size, and one program.

    Args:
      broken: for each image that could not be read, a text that names the file is added.
    """
    for place, pixels, row in computed(predictor.load, predictor.probabilities, paths, batch_size, broken):
        yield Prediction(paths[place], pixels, row)


def computed(
    load: Callable[[Path], Pixels],
    compute: Callable[[UInt8[np.ndarray, "N S S C"]], Float[Array, "N K"]],
    paths: Sequence[Path],
    batch_size: int,
    broken: list[str],
) -> Iterator[tuple[int, Pixels, Float[np.ndarray, " K"]]]:
    """Of each image that can be read, its place among `paths`, its pixels and its row of what is computed. Batches and
    `broken` are those of `predictions`."""
    batch_size = min(batch_size, len(paths))
    waiting: list[tuple[int, Pixels]] = []
    for place, path in enumerate(paths):
        try:
            waiting.append((place, load(path)))
        except DataError as error:
            broken.append(str(error))
        if waiting and (len(waiting) == batch_size or place == len(paths) - 1):
            pixels = np.stack([pixels for _, pixels in waiting])
            padding = [(0, batch_size - len(pixels)), *[(0, 0)] * (pixels.ndim - 1)]
            rows = np.asarray(compute(np.pad(pixels, padding)))
            yield from ((*seen, row) for seen, row in zip(waiting, rows, strict=False))
            waiting = []


def _walk(folder: str) -> list[tuple[str, list[str], list[str]]]:
    return sorted((at, dirs, names) for at, dirs, names in os.walk(folder) if all(map(is_data, _inside(at, folder))))


def _inside(at: str, folder: str) -> list[str]:
    return [part for part in os.path.relpath(at, folder).split(os.sep) if part != "."]


def _is_wanted(name: str) -> bool:
    return is_data(name) and is_image(name)
