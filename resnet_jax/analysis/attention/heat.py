"""What the methods share: heat maps between 0 and 1, batches of one size, and what cannot be looked at."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from resnet_jax.analysis.features import rows_of, stages_of
from resnet_jax.errors import ConfigError, DataError
from resnet_jax.run.network import Network

Images = UInt8[np.ndarray, "N S S C"]
Classes = Int[np.ndarray, " N"]
Heat = Float[np.ndarray, "N S S"]

TINY = 1e-7  # keeps a map of zeros from being divided by zero; the value of the package grad-cam


def to_unit(maps: Float[Array, "N H W"]) -> Float[Array, "N H W"]:
    """Each map from 0 at its smallest value to 1 at its largest. A map of one value becomes 0."""
    maps = maps - jnp.min(maps, axis=(1, 2), keepdims=True)
    return maps / (TINY + jnp.max(maps, axis=(1, 2), keepdims=True))


@partial(jax.jit, static_argnames="side")
def enlarge(maps: Float[Array, "N H W"], side: int) -> Float[Array, "N S S"]:
    """Maps as large as the image, bilinear, scaled to 0..1 before and after."""
    larger = jax.image.resize(to_unit(maps), (len(maps), side, side), "bilinear", antialias=False)
    return to_unit(larger)


def in_batches(compute: Callable[[Images, Classes], Any], images: Images, classes: Classes, batch_size: int) -> Any:
    """What `compute` gives for all images, from batches of one size, so that there is one program.

    Args:
      compute: gives arrays, or a tuple of arrays, with a row for each image.
    """
    size = min(batch_size, len(images))
    parts = []
    for start in range(0, len(images), size):
        batch, of = images[start : start + size], classes[start : start + size]
        short = size - len(batch)
        padded = np.pad(batch, [(0, short), (0, 0), (0, 0), (0, 0)]), np.pad(of, (0, short))
        parts.append(jax.device_get(compute(*padded)))
    return jax.tree.map(lambda *rows: np.concatenate(rows)[: len(images)], *parts)


def check_images(network: Network, images: Images) -> None:
    """Raises where there is nothing to look at, or a network has no classes.

    Raises:
      ConfigError: the network has no logits.
      DataError: there is no image, or images are not as the network sees them.
    """
    if not network.model.num_classes:
        raise ConfigError(
            f"{network.title} has no last layer, so there is no class to look for; choose a network with classes"
        )
    check_pixels(network, images)


def check_pixels(network: Network, images: Images) -> None:
    """Raises a DataError where there is no image, or images are not as the network sees them."""
    if images.ndim != 4 or not len(images):
        raise DataError(f"images of shape {images.shape} are none to look at; give at least one, as (N, S, S, C)")
    if images.dtype != np.uint8 or images.shape[-1] != network.preset.channels:
        raise DataError(
            f"images are {images.dtype} of {images.shape[-1]} channels; {network.title} sees uint8 images of "
            f"{network.preset.channels}. Prepare them with `load_image(path, network.preset)`"
        )


def check_classes(network: Network, classes: Classes, count: int) -> Classes:
    """The classes to look for, one for each image.

    Raises:
      ConfigError: a class that the network does not have, or not as many classes as images.
    """
    classes = np.asarray(classes)
    known = network.model.num_classes
    if classes.shape != (count,):
        raise ConfigError(f"there are classes of shape {classes.shape} for {count} images; give one for each image")
    wrong = classes[(classes < 0) | (classes >= known)]
    if len(wrong):
        raise ConfigError(
            f"{network.title} has no class {wrong[0]}; it has {known} classes, 0 to {known - 1}. Choose one of them"
        )
    return classes.astype(np.int32)


def map_of(network: Network, stage: str | None) -> str:
    """A stage that puts out maps; by default the last.

    Raises:
      ConfigError: a stage that the network lacks, or one that puts out no map.
    """
    maps = [name for name, shape in stages_of(network).items() if len(shape) == 3]
    stage = stage or maps[-1]
    if stage not in maps:
        rows_of(network, [stage], maps=True, dtype="float32")  # says that a stage is unknown
        raise ConfigError(f"{stage} of {network.title} is no map; choose one of {', '.join(maps)}")
    return stage
