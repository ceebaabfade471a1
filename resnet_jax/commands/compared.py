"""By which network a command compares images, and which cosine is enough: what verify, enroll and identify share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import tyro
from tyro.conf import Positional

from resnet_jax.config import AS_PUBLISHED, PresetChange

if TYPE_CHECKING:
    from resnet_jax.run.embedding import Embedded, ImageEmbedder
    from resnet_jax.run.network import Network
    from resnet_jax.run.predict import Run

USUAL_FAR = 1e-3


@dataclass(frozen=True)
class Comparing:
    """A network that gives embeddings."""

    network: Positional[Annotated[str, tyro.conf.arg(metavar="RUN")]]
    """The folder that `train.py --workdir` filled, or a weight file."""
    checkpoint: Literal["last", "best"] = "last"
    """Of a run: the newest, or the one with the best accuracy of verification."""
    model: str | None = None
    """The network in a weight file; without it the one that its keys and shapes are those of."""
    batch_size: int = 32
    """Images that are computed together."""
    flip: bool | None = None
    """Without a run: add the embedding of the mirror image, as insightface does; without it True."""
    exif: bool = False
    """Without a run: turn photographs upright, as EXIF says how the camera was held."""
    preset: PresetChange = AS_PUBLISHED
    """Without a run: how images are prepared, where it is not as for such networks."""


With = Annotated[Comparing, tyro.conf.arg(name="")]
"""Its options stand beside the command's own."""


@dataclass(frozen=True)
class Enough:
    """From which cosine on two images count as one identity."""

    far: float | None = None
    """The rate of false accepts: the threshold is the cosine that this share of the pairs of different identities
    reaches, on the split that a run is evaluated on. Without it 0.001."""
    threshold: float | None = None
    """The cosine itself, instead of --far. Without a run it must be given."""


Accepted = Annotated[Enough, tyro.conf.arg(name="")]
AS_USUAL = Enough()


class Decision(NamedTuple):
    """A cosine, where it comes from in words, and the same as JSON."""

    threshold: float
    words: str
    facts: dict[str, object]


def open_embedder(which: Comparing) -> "tuple[ImageEmbedder, Run | Network]":
    """The network that the options name.

    Raises:
      ConfigError, CheckpointError, WeightsError: it cannot be read or gives no embeddings, or options that do not
        belong together.
    """
    from resnet_jax.errors import ConfigError
    from resnet_jax.run.embedding import embedder_of
    from resnet_jax.run.predictor import open_to_predict

    if which.batch_size < 1:
        raise ConfigError(f"--batch-size = {which.batch_size} must be at least 1")
    opened = open_to_predict(which.network, which.checkpoint, which.model, exif=which.exif, preset=which.preset)
    return embedder_of(opened, exif=which.exif, flip=which.flip), opened


def check_enough(enough: Enough) -> None:
    """Raises a ConfigError for two thresholds, or for one that no cosine can have."""
    from resnet_jax.errors import ConfigError

    if enough.far is not None and enough.threshold is not None:
        raise ConfigError(
            f"--far {enough.far:g} and --threshold {enough.threshold:g} both say which cosine is enough; leave one out"
        )
    if enough.threshold is not None and not -1 <= enough.threshold <= 1:
        raise ConfigError(f"--threshold = {enough.threshold:g} is a cosine; it must lie between -1 and 1")


def decide(which: Comparing, enough: Enough, opened: "Run | Network") -> Decision:
    """Which cosine is enough.

    Raises:
      ConfigError: weights without a run and without a threshold; a rate for which the run's split has too few pairs.
    """
    from resnet_jax.errors import ConfigError
    from resnet_jax.run.predict import Run
    from resnet_jax.run.verification import operating_point

    if enough.threshold is not None:
        return Decision(enough.threshold, "as given", {"threshold": enough.threshold})
    if not isinstance(opened, Run):
        raise ConfigError(
            f"{opened.title} comes without a run, so nothing says which cosine is enough; give --threshold. The "
            f"thresholds of images of yours are printed by: resnet_jax evaluate --weights {which.network} --data.name "
            "folder:PATH"
        )
    at = operating_point(opened, which.network, USUAL_FAR if enough.far is None else enough.far)
    words = (
        f"FAR {at.far:g}: at most {100 * at.far:g} % of {at.others:,} pairs of different identities reach it, and "
        f"{100 * at.accepted:.2f} % of {at.pairs - at.others:,} pairs of one identity, on {at.split}"
    )
    facts = {"threshold": at.threshold, "far": at.far, "tar": at.accepted, "split": at.split, "pairs": at.pairs}
    return Decision(at.threshold, words, facts)


def note_of(embedder: "ImageEmbedder", seen: "Embedded") -> str:
    """How the images were prepared, and how many had another size."""
    from resnet_jax.run.network import describe

    side, count = embedder.preset.crop, len(seen.places)
    resized = f"; {seen.resized} of {count} had another size than {side} x {side}" if seen.resized else ""
    return f"{describe(embedder.preset)}{resized}{'; mirror images added' if embedder.flip else ''}"


def check_counts(options: Sequence[tuple[str, int]]) -> None:
    """Raises a ConfigError for a number below 1."""
    from resnet_jax.errors import ConfigError

    for option, value in options:
        if value < 1:
            raise ConfigError(f"{option} = {value} must be at least 1")
