"""Which network a command looks into, and on which data: the options that the commands of `analysis` share."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import tyro
from tyro.conf import Positional

from resnet_jax.config import AS_PUBLISHED, DataConfig, PresetChange

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

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


@dataclass(frozen=True)
class Analysed:
    """A network and data."""

    network: Positional[Annotated[str, tyro.conf.arg(metavar="[RUN]")]] = ""
    """The folder that `train.py --workdir` filled; a weight file; or the name of a network whose weights are published,
    such as resnet50 or resnet50:IMAGENET1K_V1."""
    data: AnalysedData = AnalysedData()
    """Whose images."""
    weights: str | None = None
    """Instead of a run: a published set such as IMAGENET1K_V2 (with --model), a weight file, or a repository of the
    Hugging Face hub such as timm/resnet50.a1_in1k. Images are prepared as whoever published it says."""
    model: str | None = None
    """The network that the weights are for; without it the one that a file's keys and shapes are those of."""
    checkpoint: Literal["last", "best"] = "last"
    """Of a run: the newest, or the one with the best top-1 accuracy."""
    batch_size: int = 64
    """Images that are computed together."""
    entry: str | None = None
    """With --weights: which part of a training checkpoint to take, such as model_ema."""
    prefix: str | None = None
    """With --weights: take the keys that begin with it, such as module.encoder_q., without it."""
    preset: PresetChange = AS_PUBLISHED
    """Without a run: how images are prepared, where it is not as the weights say, or they say nothing."""


Which = Annotated[Analysed, tyro.conf.arg(name="")]
"""Its options stand beside the command's own."""
ITS_OWN = Analysed()


class Opened(NamedTuple):
    """What a command is to look into.

    Attributes:
      run: the folder of the run, if it is a run on a disk of this machine.
    """

    network: "Network"
    data: DataConfig
    run: Path | None


def open_analysed(which: Analysed, *, data_needed: bool = True, or_embeds: bool = True) -> Opened:
    """The network and the data that the options name.

    Args:
      data_needed: refuse weights without data.
      or_embeds: take networks for embeddings too, which name no class.

    Raises:
      ConfigError, CheckpointError, WeightsError: no network or two, no data, or options that do not belong together.
    """
    from resnet_jax.errors import ConfigError
    from resnet_jax.files import is_remote
    from resnet_jax.run.named import check_classifies, network_of, open_named
    from resnet_jax.run.network import Network, load_network

    name, weights, data = which.network, which.weights, which.data
    if which.batch_size < 1:
        raise ConfigError(f"--batch-size = {which.batch_size} must be at least 1")
    if (not name) == (weights is None):
        raise ConfigError(
            "name one network: the folder of a run, a weight file or a published set such as resnet50:IMAGENET1K_V2; "
            "or --weights with --model"
        )
    if weights is None and (which.entry or which.prefix):
        raise ConfigError("--entry and --prefix are for --weights; name the file by --weights FILE")
    given = {key: value for key, value in dataclasses.asdict(data).items() if value not in (None, "", False)}
    opened = (
        load_network(weights, which.model, entry=which.entry, prefix=which.prefix, preset=which.preset)
        if weights
        else open_named(name, which.checkpoint, which.model, preset=which.preset)
    )
    check_classifies(opened, or_embeds=or_embeds)
    if isinstance(opened, Network):
        if data_needed and not data.name:
            raise ConfigError(f"say which images {opened.title} is to see, such as --data.name folder:PATH")
        return Opened(opened, DataConfig(**given), None)
    if data.exif and not opened.config.data.exif:
        raise ConfigError(
            f"--data.exif is for weights without a run; {name} was trained with data.exif = False, and prepares images "
            "as it did then. Leave it out, or train with --data.exif"
        )
    if which.preset != AS_PUBLISHED:
        raise ConfigError(
            f"--preset is for weights without a run; {name} says itself how its images are prepared. Leave it out"
        )
    elsewhere = {"holdout": 0.0} if data.name and data.name != opened.config.data.name else {}
    config = dataclasses.replace(opened.config.data, **{**elsewhere, **given})
    return Opened(network_of(opened), config, None if is_remote(name) else Path(name))


def split_of(which: Analysed, opened: Opened, split: str | None) -> tuple[DataConfig, str, str]:
    """The data and the split that a command is to see, and their name for people.

    Of a folder without splits these are all images, unless a run or `split` says which.
    """
    from resnet_jax.run.evaluate_network import all_of_a_folder

    config = opened.data if opened.run or split else all_of_a_folder(opened.data)
    chosen = split or config.eval_split
    return config, chosen, f"{which.data.name or config.name} {chosen}"


def open_other(name: str, which: Analysed) -> "Network":
    """A second network beside the one that the options name, with its own preparation of images. `--preset` changes
    that of weights without a run."""
    from resnet_jax.run.named import check_classifies, network_of, open_named
    from resnet_jax.run.network import Network

    opened = open_named(name, which.checkpoint, preset=which.preset)
    check_classifies(opened, or_embeds=True)
    return opened if isinstance(opened, Network) else network_of(opened)


@contextmanager
def kept_in(folder: Path | None) -> Iterator[Path]:
    """The folder where features are kept; without one, a folder that is removed at the end."""
    if folder is not None:
        yield folder
        return
    with TemporaryDirectory(prefix="resnet_jax_features_") as made:
        yield Path(made)


def bars() -> "Progress":
    """Bars that show how far work has come; on stderr, so that a command's output stays its result."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(16), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def teller(progress: "Progress") -> Callable[[str, int, int], None]:
    """A function that is told what is done, how far, and of how many; it shows a bar for each of these."""
    tasks: dict[str, TaskID] = {}

    def tell(what: str, done: int, count: int) -> None:
        if what not in tasks:
            tasks[what] = progress.add_task(what, total=count)
        progress.update(tasks[what], completed=done)

    return tell
