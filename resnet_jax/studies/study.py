"""What a study is: a Python file defines `study = resnet_jax.Study(...)`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax.config import Config
from resnet_jax.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from resnet_jax.studies.cells import Cell
    from resnet_jax.studies.results import Finished, Results

Overrides = Mapping[str, Any]
"""From the name of a field, such as `model.shortcut`, to its value."""
Axes = Mapping[str, Mapping[str, Overrides]]
"""From the name of an axis to its values, each with what it overrides."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """What somebody else has measured, to be shown beside a cell, marked as theirs.

    Attributes:
      source: where it is printed: the paper and its table.
      error, accuracy: in percent; one of them.
    """

    source: str
    error: float | None = None
    accuracy: float | None = None

    def __post_init__(self) -> None:
        if (self.error is None) == (self.accuracy is None):
            raise ConfigError(f"Published(source={self.source!r}) must have either error or accuracy, in percent")

    def __str__(self) -> str:
        return f"error {self.error:g} %" if self.error is not None else f"accuracy {self.accuracy:g} %"


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A further number of a finished run, or several numbers, such as one for each layer.

    Attributes:
      of: from a run to the number, or to the numbers. It is called once for each run; what it gives is kept in the
        run's folder.
      form: how a number is written.
      each_seed: False = it does not depend on the seed, so it is computed for the first seed alone.
      index: of several numbers: what counts them, as the label of an axis, such as `layer`.
      log: of several numbers: draw them on a logarithmic axis.
    """

    of: "Callable[[Finished], float | Sequence[float]]"
    form: str = "{:.3g}"
    each_seed: bool = True
    index: str = "index"
    log: bool = False


@dataclass(frozen=True, kw_only=True)
class Slope:
    """Says whether a number rises or falls along an axis, for each combination of the other axes.

    The slope of each seed is a straight line through its cells (least squares). The interval is that of the mean of
    these slopes over the seeds, by Student's t.

    Attributes:
      along: an axis whose values are numbers, such as `depth` with `20` and `56`.
      number: of the table, such as `error` or `train/error`.
      unit: the slope is stated for so much of the axis.
    """

    along: str
    number: str = "error"
    unit: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Says whether a number of one cell is larger than that of another.

    The difference is taken seed by seed. The interval is that of the mean of these differences, by Student's t.

    Attributes:
      of, minus: names of cells, such as `residual/56`.
      number: of the table, such as `error` or `train/error`.
    """

    of: str
    minus: str
    number: str = "error"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The same study at another size: `--scale NAME`. What is left out is as in the study.

    Attributes:
      settings: for all cells, after those of the study.
      axes: in place of the study's axes of these names.
    """

    base: Config | str | Path | None = None
    settings: Overrides = field(default_factory=dict)
    axes: Axes = field(default_factory=dict)
    seeds: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Study:
    """Runs that differ in what the axes name, and the question that they answer. `docs/studies.md` has an example.

    Attributes:
      question: one sentence.
      base: the config that all cells come from, or its file.
      axes: each combination of their values is a cell. A cell is named by its values: `residual/56`.
      seeds: each cell is trained with each of them.
      settings: for all cells, over `base`. Options of the command line come after these, and axes after those.
      leave_out: `values -> bool`, from `{axis: value}`: combinations that make no sense.
      numbers: what the table shows of the runs. Names are those of the log, those with `train/` before for training,
        and `error` and `train/error` where the task counts hits. Empty = the number by which the task compares
        checkpoints, in evaluation and in training.
      measures: further numbers of a finished run, by name.
      compare: what is said of the results, each with its 95 % interval.
      pictures: further pictures by the name of their file (without `.png`). Each gets an empty figure to draw on.
      paper: what somebody else has measured, by the name of a cell.
      network: `(config, cell) -> network`: a flax module in place of the network that the config describes, such as one
        with blocks of the study's own.
      scales: other sizes of the study, by name.
    """

    title: str
    question: str
    base: Config | str | Path
    axes: Axes
    seeds: tuple[int, ...] = (0, 1, 2)
    settings: Overrides = field(default_factory=dict)
    leave_out: Callable[[Mapping[str, str]], bool] | None = None
    numbers: tuple[str, ...] = ()
    measures: "Mapping[str, Measure | Callable[[Finished], Any]]" = field(default_factory=dict)
    compare: tuple[Slope | Difference, ...] = ()
    pictures: "Mapping[str, Callable[[Figure, Results], None]]" = field(default_factory=dict)
    paper: Mapping[str, Published] = field(default_factory=dict)
    network: "Callable[[Config, Cell], Any] | None" = None
    scales: Mapping[str, Scale] = field(default_factory=dict)

    def measure(self, name: str) -> Measure:
        found = self.measures[name]
        return found if isinstance(found, Measure) else Measure(of=found)
