"""Which images a command shows: image files, or images of a split."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
import tyro
from tyro.conf import Positional

from resnet_jax.commands.analysed import Analysed, Opened, split_of
from resnet_jax.commands.sheet import SHOWN

if TYPE_CHECKING:
    from resnet_jax.analysis.attention.heat import Images


@dataclass(frozen=True)
class Files:
    """Image files."""

    words: Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="[IMAGE ...]")]] = ()
    """Image files, folders of them, or patterns such as 'photos/*.jpg', instead of images of a data set. With
    --weights, the first word is an image too."""


# The arguments of a command that are not positional come before those of a nested class: RUN must be the first word.
ImageFiles = Annotated[Files, tyro.conf.arg(name="")]
NO_FILES = Files()


class Seen(NamedTuple):
    """Images as the network sees them; a truth is empty where it is not known."""

    pixels: "Images"
    names: list[str]
    truths: list[str]
    of: str


def first_word_is_an_image(which: Analysed, files: Files) -> tuple[Analysed, tuple[str, ...]]:
    """With `--weights`, no word names the network."""
    if which.weights is None or not which.network:
        return which, files.words
    return dataclasses.replace(which, network=""), (which.network, *files.words)


def seen_of_files(opened: Opened, words: tuple[str, ...]) -> Seen:
    """All images that the words name.

    Raises:
      ConfigError: there are too many for one picture.
      DataError: there is none, or one cannot be read.
    """
    from resnet_jax.data import load_image
    from resnet_jax.errors import ConfigError
    from resnet_jax.run.predictor import expand

    paths: list[Path] = expand(words)
    if len(paths) > SHOWN:
        raise ConfigError(f"{len(paths)} images are too many for one picture; name at most {SHOWN}")
    preset = dataclasses.replace(opened.network.preset, exif=opened.data.exif)
    pixels = np.stack([load_image(path, preset) for path in paths])
    counted = f"{len(paths)} images" if len(paths) > 1 else paths[0].name
    return Seen(pixels, [path.name for path in paths], [""] * len(paths), counted)


def seen_of_split(which: Analysed, opened: Opened, split: str | None, count: int, places: tuple[int, ...]) -> Seen:
    """The first images of a split, or those at these places.

    Raises:
      ConfigError: a place that the split does not have, or data without images in classes.
      DataError: the split or an image cannot be read, or there is none.
    """
    from resnet_jax import data
    from resnet_jax.analysis.images import images_of
    from resnet_jax.data.fills import EvalImage
    from resnet_jax.errors import ConfigError, DataError

    config, chosen, shown = split_of(which, opened, split)
    source = data.load_source(config, chosen)
    if text := data.missing_leaves(source, EvalImage.needs, "this command", f"data.name = {config.name}"):
        raise ConfigError(text)
    if not len(source):
        raise DataError(f"{shown} holds no image; choose another split")
    wrong = [place for place in places if not 0 <= place < len(source)]
    if wrong:
        raise ConfigError(f"{shown} has no image at place {wrong[0]}; its places are 0 to {len(source) - 1}")
    rows = list(places) or list(range(min(count, len(source))))
    preset = dataclasses.replace(opened.network.preset, exif=config.exif)
    truths = [source.class_names[source.labels()[row]] for row in rows]
    return Seen(images_of(source, preset, rows), [f"image {row}" for row in rows], truths, shown)
