"""`python -m resnet_jax ladder CONFIGS`"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from rich.table import Table
from tyro.conf import Positional

from resnet_jax.analysis.colours import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION
from resnet_jax.config import Config, Start
from resnet_jax.config_files import load_config, override
from resnet_jax.display import bytes_of, in_figure, plain_console
from resnet_jax.logs.shown import Shown

if TYPE_CHECKING:  # matplotlib is imported where a picture is made
    from matplotlib.axes import Axes
    from rich.console import Console

RUNGS = ("scratch_probe", "probe", "last_block", "full")
COLOURS = (GREY, BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, BLACK)


@dataclass(frozen=True)
class Rung:
    """One config of the ladder, trained with one or more seeds.

    Attributes:
      values: the number by which checkpoints are compared, after the last step, of each seed.
      seconds: that a run took, the mean over the seeds.
      peak_bytes: of a device's memory in a step, of the compiled program.
      trained, parameters: how many parameters are trained at some time, and how many there are.
      logs: the lines of each run's log.
    """

    name: str
    values: tuple[float, ...]
    seconds: float
    peak_bytes: int
    trained: int
    parameters: int
    logs: tuple[Sequence[Mapping[str, Any]], ...] = field(repr=False)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """The standard deviation over the seeds; None of one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Arguments:
    configs: Positional[Path]
    """The folder of the config files, such as configs/transfer."""
    workdir: Path = Path("runs/ladder")
    """Each run has a folder in it. A run that is complete is not trained again; one that was stopped goes on."""
    rungs: tuple[str, ...] = RUNGS
    """The config files, without `.py`, in the order of the table."""
    seeds: tuple[int, ...] = (0,)
    """Each config is trained with each of these seeds; the table has means and standard deviations."""
    as_json: bool = False
    """Print one JSON object instead of the table."""


def ladder(arguments: Sequence[str]) -> None:
    """Train a network by several levels, and compare them: accuracy, time, memory, trained parameters.

    Further options are those of `train`, and hold for all runs: --data.name folder:photos --start.weights
    IMAGENET1K_V2. A config that starts from nothing still does.
    """
    asked, overrides = tyro.cli(
        Arguments, args=arguments, prog="resnet_jax ladder", description=ladder.__doc__, return_unknown_args=True
    )
    named = {name: _config(asked.configs, name, overrides) for name in asked.rungs}  # all, before the first is trained
    from resnet_jax.runtime.programs import remember_programs
    from resnet_jax.tasks.table import settled, task_of

    remember_programs()
    console = plain_console(stderr=asked.as_json)
    rungs = []
    for name, config in named.items():
        console.print(f"== {name}")
        rungs.append(_climb(name, config, asked, console))
    first = next(iter(named.values()))
    task = task_of(settled(first))
    best = task.names[task.best]
    title = f"{first.model.name} on {first.data.name}"
    picture = asked.workdir / "ladder.png"
    draw(rungs, task.best, best, first.evaluations[0].name, title, picture)
    facts = [{name: x for name, x in asdict(rung).items() if name != "logs"} for rung in rungs]
    (asked.workdir / "ladder.json").write_text(json.dumps(facts, indent=2) + "\n")
    if asked.as_json:
        print(json.dumps({"title": title, "number": task.best, "rungs": facts}))
        return
    console.print(table_of(rungs, best, title))
    console.print(f"The curves of all are in {picture}, the figures in {asked.workdir / 'ladder.json'}")


def _config(folder: Path, name: str, overrides: Sequence[str]) -> Config:
    plain = load_config(folder / f"{name}.py")
    config = override(plain, overrides)
    # A rung that starts from nothing shows what the weights are worth.
    return config if plain.start.weights else replace(config, start=Start())


def _climb(name: str, config: Config, asked: Arguments, console: "Console") -> Rung:
    import jax

    from resnet_jax.cost.forecast import forecast
    from resnet_jax.files import read_json
    from resnet_jax.logs.run_log import read_metrics
    from resnet_jax.run.evaluate import key
    from resnet_jax.run.result import RESULT
    from resnet_jax.run.train import train
    from resnet_jax.survival.digests import by_name
    from resnet_jax.tasks.assemble import groups_and_phases
    from resnet_jax.tasks.table import settled, task_of
    from resnet_jax.training.frozen import frozen_names

    folders = [asked.workdir / name / f"seed{seed}" for seed in asked.seeds]
    for seed, folder in zip(asked.seeds, folders, strict=True):
        train(replace(config, seed=seed), folder, console=console)
    results = [read_json(folder / RESULT) for folder in folders]
    config = settled(config)
    task = task_of(config)
    params = jax.eval_shape(task.init, jax.random.key(0))["params"]
    frozen = frozen_names(params, groups_and_phases(config, task)[0])
    sizes = {leaf: x.size for leaf, x in by_name(params).items()}
    return Rung(
        name=name,
        values=tuple(result[key(config.evaluations[0].name, task.best)] for result in results),
        seconds=statistics.fmean(result["seconds"] for result in results),
        peak_bytes=forecast(config, jax.local_devices()).peak_bytes,
        trained=sum(size for leaf, size in sizes.items() if leaf not in frozen),
        parameters=sum(sizes.values()),
        logs=tuple(read_metrics(folder) for folder in folders),
    )


def table_of(rungs: Sequence[Rung], best: Shown, title: str) -> Table:
    """Accuracy, time, memory and trained parameters of the rungs."""
    table = Table(title=title)
    table.add_column("")
    for column in (best.label, "seconds", "memory", "trained"):
        table.add_column(column, justify="right")
    for rung in rungs:
        spread = "" if rung.deviation is None else f" ± {best.text(rung.deviation)}"
        share = f"{rung.trained:,} ({rung.trained / rung.parameters:.1%})"
        table.add_row(
            *(rung.name, f"{best.text(rung.mean)}{spread}", f"{rung.seconds:.0f}", bytes_of(rung.peak_bytes), share)
        )
    return table


def draw(rungs: Sequence[Rung], best: str, shown: Shown, evaluation: str, title: str, path: Path) -> None:
    """Draws training and validation curves of all rungs, seed by seed, as a PNG.

    Args:
      best: the number by which checkpoints are compared; `shown`, how it is called.
      evaluation: the name of the evaluation that is drawn; empty if it has none.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    from resnet_jax.run.evaluate import key

    figure = Figure(figsize=(10, 7), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(in_figure(title), fontsize=14, fontweight="bold")
    axes = figure.subplots(2, 2, sharex=True)
    for column, (kind, words) in enumerate((("train", "training"), ("eval", "validation"))):
        for row, (number, label) in enumerate(((best, shown.title or shown.label), ("loss", "loss"))):
            one = axes[row][column]
            for rung, colour in zip(rungs, COLOURS * len(rungs), strict=False):
                _draw_runs(one, rung, kind, key(evaluation, number) if kind == "eval" else number, colour)
            one.set_ylabel(label)
            one.grid(color="#e5e7eb", linewidth=0.8)
            one.spines[["top", "right"]].set_visible(False)
            if number == best and shown.is_fraction:
                one.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes[0][column].set_title(words)
        axes[1][column].set_xlabel("epoch")
    axes[0][1].legend(fontsize=9, framealpha=0.9, edgecolor="none")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _draw_runs(axes: "Axes", rung: Rung, kind: str, number: str, colour: str) -> None:
    for place, log in enumerate(rung.logs):
        points = [
            (line["epoch"], line[number]) for line in log if line["kind"] == kind and line.get(number) is not None
        ]
        if points:
            label = None if place else rung.name.replace("_", " ")
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.5, alpha=0.9, label=label)
