"""From image files to embeddings, with a network from a run or with weights without a run."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from resnet_jax.config import Embed, Preset
from resnet_jax.data import load_image, normalize
from resnet_jax.data.decode import image_size
from resnet_jax.data.sources.folder import image_files, list_folders
from resnet_jax.errors import ConfigError, DataError
from resnet_jax.run.named import embeds, network_of
from resnet_jax.run.network import Network
from resnet_jax.run.predict import Run
from resnet_jax.run.predictor import computed
from resnet_jax.tasks.embed.measure import make_embed


@dataclass(frozen=True)
class ImageEmbedder:
    """How to read an image for a network, and its embedding.

    Attributes:
      network: as evaluation uses it.
      preset: how images are prepared.
      flip: whether the embedding of the mirror image is added.
      embed: pixels (N, S, S, C) -> embeddings of length 1; compiled.
    """

    network: Network
    preset: Preset
    flip: bool
    embed: Callable[[UInt8[np.ndarray, "N S S C"]], Float[Array, "N E"]]


class Embedded(NamedTuple):
    """Images that could be read.

    Attributes:
      places: among the images that were asked for.
      vectors: of length 1.
      resized: how many had another size than the network takes.
    """

    places: list[int]
    vectors: Float[np.ndarray, "N E"]
    resized: int


def embedder_of(opened: Run | Network, *, exif: bool = False, flip: bool | None = None) -> ImageEmbedder:
    """By what a network compares image files: as in its evaluation.

    Args:
      exif: without a run: turn photographs upright first.
      flip: without a run: add the embedding of the mirror image; None = True, as insightface does.

    Raises:
      ConfigError: the network gives no embeddings, or `flip` is for a run, which says it itself.
    """
    if not embeds(opened):
        raise ConfigError(
            f"{opened.title} gives no embeddings, by which images are compared; name a run whose task is Embed, or the "
            "weights of a network such as iresnet50 (docs/embeddings.md)"
        )
    if isinstance(opened, Run):
        options, network = opened.config.task, network_of(opened)
        assert isinstance(options, Embed)
        if flip is not None:
            raise ConfigError(
                f"--flip is for weights without a run; {opened.title} was evaluated with task.eval_flip = "
                f"{options.eval_flip}, and compares images likewise. Leave it out"
            )
        preset, flip = network.preset, options.eval_flip
    else:
        network, preset, flip = opened, replace(opened.preset, exif=exif), flip is not False
    look = make_embed(network.model, flip=flip)
    program = jax.jit(lambda variables, pixels: look(variables, normalize(pixels, preset)))
    return ImageEmbedder(network, preset, flip, lambda pixels: program(network.variables, pixels))


def embeddings(embedder: ImageEmbedder, paths: Sequence[Path], batch_size: int, broken: list[str]) -> Embedded:
    """The embeddings of image files.

    Args:
      broken: for each image that could not be read, a text that names the file is added.

    Raises:
      DataError: an embedding is not finite.
    """
    places: list[int] = []
    vectors: list[np.ndarray] = []
    resized, side = 0, embedder.preset.crop
    load = lambda path: load_image(path, embedder.preset)
    for place, _, vector in computed(load, embedder.embed, paths, batch_size, broken):
        if not np.isfinite(vector).all():
            raise DataError(
                f"the embedding of {paths[place]} is not finite (infinite or not a number), and nothing can be "
                f"compared with it; the training of {embedder.network.title} may have diverged. Use an earlier "
                "checkpoint, or other weights"
            )
        places.append(place)
        vectors.append(vector)
        resized += image_size(paths[place]) != (side, side)
    return Embedded(places, np.stack(vectors) if vectors else np.empty((0, 0), np.float32), resized)


def identities_in(folder: Path) -> dict[str, list[Path]]:
    """The images of each identity of a folder FOLDER/NAME/*.jpg.

    Raises:
      DataError: there is no such folder, it holds no folders, or one of these holds no image.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; name one that holds a folder of images for each identity: NAME/*.jpg")
    others: Counter[str] = Counter()
    found = {name: [*map(Path, image_files(folder / name, folder, others))] for name in list_folders(folder)}
    if not found:
        raise DataError(f"{folder} holds no folders; it must hold one for each identity, with its images: NAME/*.jpg")
    if empty := [name for name, files in found.items() if not files]:
        raise DataError(
            f"{len(empty)} folders of {folder} hold no image, the first is {empty[0]}; fill them, or remove them"
        )
    return found
