"""A detector of anomalies: a memory bank of patches of good images, and what it says of others."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from resnet_jax.analysis.anomalies.coreset import coreset, nearest, projection
from resnet_jax.analysis.anomalies.patches import Batches, check_stages, patches, usual_stages
from resnet_jax.analysis.features import describe_network
from resnet_jax.analysis.store import check_owner, differences
from resnet_jax.config import Preset
from resnet_jax.errors import ConfigError, DataError
from resnet_jax.files import explain_failed_write, is_remote, write_atomically
from resnet_jax.run.network import Network

MANIFEST, BANK = "detector.json", "bank.npy"
SHARE = 0.1
PROJECTED = 128
SIGMA = 4 / 224  # of the side of the image: the paper's 4 pixels at 224


@dataclass(frozen=True)
class Detector:
    """What is kept of good images.

    Attributes:
      bank: the patches that were chosen.
      stages: of the network, whose patches they are.
      good: the name of the class of good images.
      images: how many images there were.
      of: the network and the preparation of images, as digests and options.
    """

    bank: Float[np.ndarray, "M D"]
    stages: tuple[str, ...]
    good: str
    images: int
    of: Mapping[str, Any]

    @property
    def has_maps(self) -> bool:
        """Whether it says where in an image an anomaly is."""
        return self.stages != ("pooled",) and self.stages != ("logits",)


class Scores(NamedTuple):
    """What a detector says of images: one score for each, and one for each patch."""

    images: Float[np.ndarray, " N"]
    maps: Float[np.ndarray, "N H W"]


def fit(
    network: Network,
    preset: Preset,
    batches: Batches,
    count: int,
    *,
    good: str,
    stages: Sequence[str] = (),
    share: float = SHARE,
    seed: int = 0,
    tell: Callable[[str, int, int], None] = lambda what, done, count: None,
) -> Detector:
    """Keeps a part of the patches of good images that lies close to all of them (PatchCore).

    Images are read twice. Between that, 128 numbers of every patch are in memory, not the patches themselves: for
    images of 224 pixels and maps of 28, 0.4 MB an image. At the end there is the bank.

    Args:
      preset: how the images of `batches` were prepared.
      count: of images.
      good: the name of their class.
      stages: whose maps are joined; empty = the middle ones. `pooled` alone keeps one patch for each image.
      share: of the patches that is kept.
      seed: of the random projection in which patches are compared for the choice.
      tell: is told of progress: of what, and how many are done, of how many.

    Raises:
      ConfigError: a stage that the network lacks, or a share that is not possible.
      DataError: there is no image, one cannot be read, or features are not finite.
    """
    stages = tuple(stages) or usual_stages(network)
    check_fit(network, stages, share)
    if not count:
        raise DataError("there is no good image to learn from; at least one is needed. Name a split that holds some")
    chosen = _choice(network, batches, count, stages, share, seed, tell) if share < 1 else None
    kept, rows, done = [], 0, 0
    for found in patches(network, batches, stages):
        flat = found.reshape(-1, found.shape[-1])
        here = slice(None) if chosen is None else chosen[(chosen >= rows) & (chosen < rows + len(flat))] - rows
        kept.append(flat[here])
        rows, done = rows + len(flat), done + len(found)
        tell("memory bank", done, count)
    return Detector(np.concatenate(kept), stages, good, count, describe_network(network, preset))


def _choice(
    network: Network,
    batches: Batches,
    count: int,
    stages: tuple[str, ...],
    share: float,
    seed: int,
    tell: Callable[[str, int, int], None],
) -> Int[np.ndarray, " M"]:
    """Which of all patches, in the order of the images, are kept."""
    projected, matrix, done = np.empty((0, 0), np.float32), np.empty((0, 0), np.float32), 0
    for found in patches(network, batches, stages):
        area, features = found.shape[1] * found.shape[2], found.shape[3]
        if not done:
            matrix = projection(features, PROJECTED, seed)
            projected = np.empty((count * area, matrix.shape[1]), np.float32)
        projected[done * area : (done + len(found)) * area] = found.reshape(-1, features) @ matrix
        done += len(found)
        tell("patches", done, count)
    tell("choice", 0, 1)
    chosen = np.sort(coreset(projected, max(1, round(share * len(projected)))))
    tell("choice", 1, 1)
    return chosen


def check_fit(network: Network, stages: Sequence[str], share: float) -> None:
    """Raises a ConfigError for options with which no detector can be fitted: said before any work."""
    check_stages(network, stages or usual_stages(network))
    if not 0 < share <= 1:
        raise ConfigError(f"a share of {share} of the patches cannot be kept; it must be above 0 and at most 1")


def score(detector: Detector, network: Network, batches: Batches, *, neighbours: int = 0) -> Scores:
    """The distance of every patch to the nearest of the bank, and of every image the largest (equation 6).

    Args:
      neighbours: b of equation 7: the score of an image is made smaller where the b patches of the bank around the
        nearest one are not much farther; 0 = not.

    Raises:
      DataError: the bank has fewer patches than `neighbours`.
    """
    if neighbours and not 1 < neighbours <= len(detector.bank):
        raise DataError(
            f"{neighbours} neighbours cannot be weighed against a bank of {len(detector.bank)} patches; give 0, or 2 "
            f"to {len(detector.bank)}"
        )
    scores, maps = [], []
    for found in patches(network, batches, detector.stages):
        flat = found.reshape(-1, found.shape[-1])
        distances, places = nearest(flat, detector.bank)
        here = distances[:, 0].reshape(len(found), -1)
        worst = here.argmax(axis=1)
        rows = np.arange(len(found)) * here.shape[1] + worst
        weight = _weights(flat[rows], places[rows, 0], detector.bank, neighbours) if neighbours else 1.0
        scores.append(weight * here.max(axis=1))
        maps.append(here.reshape(found.shape[:3]))
    return Scores(np.concatenate(scores), np.concatenate(maps))


def _weights(
    worst: Float[np.ndarray, "N D"], nearest_of_bank: np.ndarray, bank: Float[np.ndarray, "M D"], neighbours: int
) -> Float[np.ndarray, " N"]:
    """Equation 7: 1 - exp(distance to the nearest) / (sum of exp(distance) over the nearest one's neighbourhood)."""
    from scipy.special import logsumexp

    _, around = nearest(bank[nearest_of_bank], bank, neighbours)
    far = np.linalg.norm(worst[:, None].astype(np.float64) - bank[around], axis=-1)
    own = np.linalg.norm(worst.astype(np.float64) - bank[nearest_of_bank], axis=-1)
    return 1 - np.exp(own - logsumexp(far, axis=1))


def heat_of(maps: Float[np.ndarray, "N H W"], side: int) -> Float[np.ndarray, "N S S"]:
    """Maps as large as the image: bilinear, then smoothed by a Gaussian whose sigma is 4 pixels at 224, and in
    proportion at other sizes."""
    from scipy.ndimage import gaussian_filter

    larger = jax.image.resize(maps, (len(maps), side, side), "bilinear", antialias=False)
    return gaussian_filter(np.asarray(larger), SIGMA * side, axes=(1, 2))


def check_place(folder: str | os.PathLike[str]) -> None:
    """Raises where a detector cannot be written: said before the work."""
    if is_remote(folder):
        raise ConfigError(f"a detector is written to a disk, which {folder} is not; choose a folder of this machine")
    check_owner(Path(folder), MANIFEST, "a detector is")


def save(detector: Detector, folder: str | os.PathLike[str]) -> None:
    """Writes a detector into a folder, in place of one that is there.

    Raises:
      ConfigError: the folder belongs to something else.
      StorageError: it cannot be written to.
    """
    check_place(folder)
    folder = Path(folder)
    with explain_failed_write(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)
    content = BytesIO()
    np.save(content, detector.bank)
    write_atomically(folder / BANK, content.getvalue())
    told = {"stages": detector.stages, "good": detector.good, "images": detector.images, "of": detector.of}
    write_atomically(folder / MANIFEST, json.dumps(told, indent=1))


def open_detector(folder: str | os.PathLike[str], network: Network, preset: Preset) -> Detector:
    """A detector that was saved, for the network with which it was fitted.

    Raises:
      ConfigError: it is of another network, or of images that were prepared in another way.
      DataError: there is none, or it is damaged.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).exists():
        raise DataError(f"{folder} holds no detector ({MANIFEST}); name a folder that `anomalies fit` has written")
    try:
        told = json.loads((folder / MANIFEST).read_text())
        bank = np.load(folder / BANK)
        detector = Detector(bank, tuple(told["stages"]), told["good"], told["images"], told["of"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"the detector in {folder} cannot be read: {error}. Fit it again") from error
    if differ := differences(detector.of, describe_network(network, preset)):
        raise ConfigError(
            f"{folder} is a detector of {differ} than {network.title}: distances would mean nothing. Name the network "
            "that it was fitted with, or fit one for this network"
        )
    return detector
