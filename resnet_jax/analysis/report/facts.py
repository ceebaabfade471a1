"""All that a report says, gathered from a network and a split of a data set."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from resnet_jax import data
from resnet_jax.analysis.attention.deletion import Deletion, deletion
from resnet_jax.analysis.attention.gradcam import grad_cam
from resnet_jax.analysis.features import features
from resnet_jax.analysis.images import images_of
from resnet_jax.analysis.maps.embed import Method, check_count, check_method, embed
from resnet_jax.analysis.maps.maps import sample_of
from resnet_jax.analysis.maps.numbers import Numbers, check_halves, measure
from resnet_jax.analysis.report.pictures import thumbnails
from resnet_jax.analysis.report.verdicts import Verdicts, verdicts
from resnet_jax.analysis.search import nearest
from resnet_jax.analysis.store import Features
from resnet_jax.config import DataConfig, Preset
from resnet_jax.errors import ConfigError, DataError, ResnetJaxError
from resnet_jax.run.evaluate_network import labels_of
from resnet_jax.run.network import Network

FEATURES = "pooled"
THUMBNAIL = 64  # pixels
TOGETHER = 256  # images that are read at a time
NEAR = 6  # neighbours that the page shows of an image
LEAST = 3
"""Images of a report, at least: a map of fewer has nothing to say."""

Tell = Callable[[str, int, int], None]


class Mistake(NamedTuple):
    """An image that is not recognised, as the network sees it, and what speaks for the two classes (Grad-CAM)."""

    place: int
    image: UInt8[np.ndarray, "S S C"]
    for_said: Float[np.ndarray, "S S"]
    for_true: Float[np.ndarray, "S S"]


@dataclass(frozen=True)
class Map:
    """n images on a plane.

    Attributes:
      features: numbers from which the plane was made, of each image.
      places: of the images in the split.
      images: small ones.
      coordinates: with values from 0 to 1.
      near, similar: the nearest of the other n images, by the features, and their cosines.
      numbers: of the features, not of the plane. None where the classes have too few images for them.
    """

    method: Method
    features: int
    places: Int[np.ndarray, " n"]
    images: UInt8[np.ndarray, "n T T C"]
    labels: Int[np.ndarray, " n"]
    coordinates: Float[np.ndarray, "n 2"]
    near: Int[np.ndarray, "n k"]
    similar: Float[np.ndarray, "n k"]
    numbers: Numbers | None


@dataclass(frozen=True)
class Facts:
    """What a report says of a network and a split.

    Attributes:
      class_names: of the data.
      network_classes: of the network, in which `verdicts` are.
      verdicts: None where the classes of the network are not those of the data; `why_not` says it.
      said_fall: what covering the hottest part of the mistakes does to the probability of the class that was said.
    """

    title: str
    count: int
    class_names: Sequence[str]
    network_classes: Sequence[str]
    map: Map
    verdicts: Verdicts | None
    why_not: str
    mistakes: tuple[Mistake, ...]
    said_fall: Deletion | None


def gather(
    network: Network,
    config: DataConfig,
    split: str,
    folder: str | os.PathLike[str],
    *,
    images: int = 2000,
    mistakes: int = 24,
    method: Method | None = None,
    seed: int = 0,
    batch_size: int = 64,
    tell: Tell = lambda what, done, count: None,
) -> Facts:
    """Looks at every image of a split once, at some of them for the map, and at the worst mistakes with Grad-CAM.

    Args:
      folder: where features are kept; those that are there already are used again.
      images: on the map; a sample of the split, if it has more.
      mistakes: that are shown.
      method: of the map, see `maps.embed`; None = t-SNE if it is installed and has enough images, else PCA.
      seed: of the sample and of the map.
      tell: is told of progress: of what, and how many are done, of how many.

    Raises:
      ConfigError, DataError, StorageError: as `features` does; fewer than three images.
    """
    source = data.load_source(config, split)
    if 0 < len(source) < LEAST:
        raise DataError(f"{config.name} {split} has {len(source)} images; a report needs at least {LEAST}. Bring more")
    stages = (FEATURES, "logits") if network.model.num_classes else (FEATURES,)
    preset = replace(network.preset, exif=config.exif)
    kept = features(*(network, config, split, stages, folder), batch_size=batch_size, tell=partial(tell, "images"))
    labels = np.asarray(kept.labels)
    found, why_not = _verdicts(network, kept, config.name)
    places = sample_of(labels, images, seed)
    rows = np.asarray(kept[FEATURES][places], np.float32)
    method = method or usual_method(len(rows))
    plane = _map(rows, labels[places], method, seed, partial(tell, "map"))
    worst = found.worst(mistakes) if found else np.array([], int)
    shown, fall = _explain(network, images_of(source, preset, worst), worst, found, batch_size)
    small = _small(source, preset, places, partial(tell, "thumbnails"))
    return Facts(
        title=network.title,
        count=len(labels),
        class_names=kept.class_names,
        network_classes=network.class_names,
        map=Map(method=method, features=rows.shape[1], places=places, images=small, labels=labels[places], **plane),
        verdicts=found,
        why_not=why_not,
        mistakes=shown,
        said_fall=fall,
    )


def _verdicts(network: Network, kept: Features, where: str) -> tuple[Verdicts | None, str]:
    """What the network says, or why that cannot be compared with the classes of the data."""
    if not network.model.num_classes:
        return None, f"{network.title} names no class, so nothing is said here about mistakes."
    try:
        in_network = labels_of(kept.class_names, network.class_names, where)
    except ConfigError as error:
        return None, f"Nothing is said here about mistakes: {error}."
    return verdicts(kept["logits"], in_network[kept.labels]), ""


def usual_method(count: int) -> Method:
    """t-SNE if it is installed and can map as many images, else PCA."""
    try:
        check_method("tsne")
        check_count(count, "tsne")
    except ResnetJaxError:
        return "pca"
    return "tsne"


def _map(
    rows: Float[np.ndarray, "n D"], labels: Int[np.ndarray, " n"], method: Method, seed: int, tell: Callable[..., None]
) -> dict[str, Any]:
    """The parts of a `Map` that follow from features."""
    tell(0, 1)
    plane = embed(rows, method, seed=seed)
    plane = plane - plane.min(axis=0)
    places, cosines = nearest(rows, neighbours=min(NEAR, len(rows) - 1))
    try:
        check_halves(labels)
        numbers = measure(rows, labels, seed)
    except DataError:
        numbers = None
    tell(1, 1)
    return {
        "coordinates": plane / max(float(plane.max()), 1e-12),
        "near": places,
        "similar": cosines,
        "numbers": numbers,
    }


def _explain(
    network: Network,
    images: UInt8[np.ndarray, "n S S C"],
    places: Int[np.ndarray, " n"],
    found: Verdicts | None,
    batch_size: int,
) -> tuple[tuple[Mistake, ...], Deletion | None]:
    """The mistakes with what speaks for each class, and what covering the hottest part does."""
    if found is None or not len(places):
        return (), None
    said, true = found.predicted[places], found.labels[places]
    for_said, for_true = (grad_cam(network, images, of, batch_size=batch_size) for of in (said, true))
    shown = zip(places.tolist(), images, for_said, for_true, strict=True)
    return tuple(Mistake(*one) for one in shown), deletion(network, images, for_said, said, batch_size=batch_size)


def _small(
    source: data.Source, preset: Preset, places: Int[np.ndarray, " n"], tell: Callable[..., None]
) -> UInt8[np.ndarray, "n T T C"]:
    """Thumbnails, a few images at a time, since thousands of whole ones would fill the memory."""
    small = []
    for start in range(0, len(places), TOGETHER):
        tell(start, len(places))
        small.append(thumbnails(images_of(source, preset, places[start : start + TOGETHER]), THUMBNAIL))
    tell(len(places), len(places))
    return np.concatenate(small)
