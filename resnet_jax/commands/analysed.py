"""Which network a command looks into, and on which data: the options that `features` and `probe` share."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from resnet_jax.config import DataConfig

if TYPE_CHECKING:
    from rich.progress import Progress

    from resnet_jax.run.network import Network


@dataclass(frozen=True)
class AnalysedData:
    """Images and their classes; as in a config. Of a run, what is not said is as the run was trained."""

    name: str = ""
    """The data set, such as folder:PATH, tfds:NAME or parquet:PATH; a run has one of its own."""
    directory: str | None = None
    """Where TFDS data lives."""
    train_split: str | None = None
    """The split to train on; without a run: train."""
    eval_split: str | None = None
    """The split to evaluate on; without a run: test."""
    holdout: float | None = None
    """Of a folder without splits: the share of each class that is the split to evaluate on."""
    exif: bool = False
    """Without a run: turn photographs upright, as EXIF says how the camera was held."""


ITS_OWN = AnalysedData()


def open_analysed(
    name: str,
    weights: str | None,
    model: str | None,
    checkpoint: Literal["last", "best"],
    entry: str | None,
    prefix: str | None,
    data: AnalysedData,
) -> "tuple[Network, DataConfig, Path | None]":
    """The network, the data, and the folder of the run, if it is a run on a disk of this machine.

    Raises:
      ConfigError, CheckpointError, WeightsError: no network or two, no data, or options that do not belong together.
    """
    from resnet_jax.errors import ConfigError
    from resnet_jax.files import is_remote
    from resnet_jax.run.named import network_of, open_named
    from resnet_jax.run.network import Network, load_network

    if (not name) == (weights is None):
        raise ConfigError(
            "name one network: the folder of a run, a weight file or a published set such as resnet50:IMAGENET1K_V2; "
            "or --weights with --model"
        )
    if weights is None and (entry or prefix):
        raise ConfigError("--entry and --prefix are for --weights; name the file by --weights FILE")
    given = {key: value for key, value in dataclasses.asdict(data).items() if value not in (None, "", False)}
    opened = (
        load_network(weights, model, entry=entry, prefix=prefix) if weights else open_named(name, checkpoint, model)
    )
    if isinstance(opened, Network):
        if not data.name:
            raise ConfigError(f"say which images {opened.title} is to see, such as --data.name folder:PATH")
        return opened, DataConfig(**given), None
    if data.exif and not opened.config.data.exif:
        raise ConfigError(
            f"--data.exif is for weights without a run; {name} was trained with data.exif = False, and prepares images "
            "as it did then. Leave it out, or train with --data.exif"
        )
    elsewhere = {"holdout": 0.0} if data.name and data.name != opened.config.data.name else {}
    config = dataclasses.replace(opened.config.data, **{**elsewhere, **given})
    return network_of(opened), config, None if is_remote(name) else Path(name)


def bars() -> "Progress":
    """Bars that show how far work has come; on stderr, so that a command's output stays its result."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(16), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
