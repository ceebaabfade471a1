"""What the folders of a study hold: finished runs, their numbers, and why others are missing."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import jax

from resnet_jax.config import Config
from resnet_jax.cost.count import count_macs_of
from resnet_jax.errors import StorageError, StudyError
from resnet_jax.files import open_folder, read_json, write_atomically
from resnet_jax.logs.run_log import read_metrics
from resnet_jax.logs.shown import Names, Shown
from resnet_jax.run.evaluate import key, shown_names
from resnet_jax.run.predict import Run, load_run
from resnet_jax.run.result import RESULT
from resnet_jax.studies.cells import Cell
from resnet_jax.studies.numbers import Interval, interval
from resnet_jax.studies.study import Study
from resnet_jax.tasks.table import task_of
from resnet_jax.tasks.task import Task

FAILED = "failed.txt"
"""In the folder of a run: why it failed."""
MEASURED = "measures.json"
"""In the folder of a run: what the study's own measures gave."""
TRAINING = "train"
"""Before the numbers of training: `train/top1`."""


@dataclass(frozen=True)
class Finished:
    """A finished run, for a measure to look at.

    Attributes:
      folder: of the run.
    """

    cell: Cell
    seed: int
    folder: Path

    @property
    def config(self) -> Config:
        return self.cell.seeded(self.seed)

    @cached_property
    def task(self) -> Task:
        return self.cell.task()

    @cached_property
    def run(self) -> Run:
        """The trained network, from its last checkpoint."""
        return load_run(self.folder, task=self.task)

    @property
    def log(self) -> list[dict[str, Any]]:
        return read_metrics(self.folder)

    @property
    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = read_json(open_folder(self.folder) / RESULT)
        return found


@dataclass(frozen=True)
class Outcome:
    """What has become of a run.

    Attributes:
      complete: whether it is.
      why: why it failed; empty if it did not, or was not begun.
      numbers: by name, those of the last evaluation, of training and of measures; empty if it is not complete.
      lists: what measures with several numbers gave.
      log: the lines of its log.
      beside: how many seeds were trained in one program with this one, itself included; 1 = it was trained alone.
    """

    seed: int
    complete: bool
    why: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    lists: Mapping[str, Sequence[float]] = field(default_factory=dict)
    log: Sequence[Mapping[str, Any]] = field(default_factory=tuple, repr=False)
    beside: int = 1

    @property
    def reason(self) -> str:
        """The first sentence of `why`; the rest is in the folder of the run."""
        return self.why.partition("\n")[0].partition(". ")[0]


@dataclass(frozen=True)
class Row:
    """A cell and its runs."""

    cell: Cell
    outcomes: tuple[Outcome, ...]
    parameters: int
    macs: int

    @property
    def complete(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.complete]

    def by_seed(self, number: str) -> dict[int, float]:
        """The number of each complete run that has it."""
        return {outcome.seed: outcome.numbers[number] for outcome in self.complete if number in outcome.numbers}

    def interval(self, number: str) -> Interval | None:
        """Mean and spread of a number over the seeds; None if no run has it."""
        values = list(self.by_seed(number).values())
        return interval(values) if values else None


@dataclass(frozen=True)
class Results:
    """A study and what its runs gave.

    Attributes:
      names: how the numbers are written and called.
      numbers: the names of the numbers that the table shows.
    """

    study: Study
    rows: tuple[Row, ...]
    names: Names
    numbers: tuple[str, ...]

    @property
    def by_name(self) -> dict[str, Row]:
        return {row.cell.name: row for row in self.rows}

    def shown(self, number: str) -> Shown:
        return self.names.get(number, Shown(number, "{:.4g}"))


def folder_of(workdir: Path, cell: Cell, seed: int) -> Path:
    return workdir / cell.name / f"seed{seed}"


def gather(study: Study, cells: Sequence[Cell], seeds: Sequence[int], workdir: Path) -> Results:
    """Reads the folders of a study. Nothing is computed but the costs of networks."""
    tasks = {cell.name: cell.task() for cell in cells}
    task = tasks[cells[0].name]
    first = cells[0].config.evaluations[0].name
    best = key(first, task.best)
    names = _names(cells[0].config, task, study)
    rows = []
    for cell in cells:
        outcomes = tuple(_outcome(study, cell, tasks[cell.name], seed, workdir) for seed in seeds)
        rows.append(Row(cell, outcomes, *costs_of(cell.config, cell.network)))
    return Results(study, tuple(rows), names, study.numbers or (best, f"{TRAINING}/{task.best}"))


@cache  # the table is written after each run
def costs_of(config: Config, network: Any = None) -> tuple[int, int]:
    """The parameters of a cell's network, and its multiply-adds for one example of evaluation."""
    task = task_of(config, network)
    variables = jax.eval_shape(task.init, jax.random.key(0))
    one = {name: jax.ShapeDtypeStruct((1, *shape), dtype) for name, (shape, dtype) in task.fills[1].leaves.items()}
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    return parameters, count_macs_of(task.predict, variables, one)


def check_complete(results: Results) -> None:
    """Raises a StudyError if a run or one of its measures failed."""
    failed = [(row.cell.name, one) for row in results.rows for one in row.outcomes if one.why]
    if failed:
        named = "\n  ".join(f"{name}, seed {one.seed}: {one.reason}" for name, one in failed)
        total = sum(len(row.outcomes) for row in results.rows)
        raise StudyError(
            f"{len(failed)} of {total} runs failed; the others are complete:\n  {named}\nEach has a {FAILED} in its "
            "folder. The same command tries them again, from their last checkpoints"
        )


def is_complete(folder: Path) -> bool:
    return (open_folder(folder) / RESULT).exists()


def remember_failure(folder: Path, why: str) -> None:
    open_folder(folder).mkdir(parents=True, exist_ok=True)
    write_atomically(open_folder(folder) / FAILED, why + "\n")


def forget_failure(folder: Path) -> None:
    (open_folder(folder) / FAILED).unlink(missing_ok=True)


def take_measures(study: Study, one: Finished, first: bool) -> None:
    """Computes the study's own measures of a finished run that are not yet in its folder.

    Args:
      first: whether its seed is the first one, which stands for all seeds where they do not matter.
    """
    path = open_folder(one.folder) / MEASURED
    known: dict[str, Any] = measured(one.folder)
    for name in study.measures:
        measure = study.measure(name)
        if name not in known and (first or measure.each_seed):
            found = measure.of(one)
            known[name] = [float(x) for x in found] if isinstance(found, Sequence) else float(found)
            write_atomically(path, json.dumps(known) + "\n")


def measured(folder: Path) -> dict[str, Any]:
    """What the study's own measures gave for a run."""
    path = open_folder(folder) / MEASURED
    return dict(read_json(path)) if path.exists() else {}


def _outcome(study: Study, cell: Cell, task: Task, seed: int, workdir: Path) -> Outcome:
    folder = folder_of(workdir, cell, seed)
    failed = open_folder(folder) / FAILED
    why = failed.read_text().strip() if failed.exists() else ""
    log = read_metrics(folder)
    if not is_complete(folder):
        return Outcome(seed, False, why, log=log)
    try:
        result = read_json(open_folder(folder) / RESULT)
    except StorageError as error:
        return Outcome(seed, False, str(error), log=log)
    evaluation = cell.config.evaluations[0].name
    numbers = {name: float(x) for name, x in result.items() if isinstance(x, (int, float)) and not isinstance(x, bool)}
    numbers = {**training_numbers(log, task), **numbers}
    # One reading for all studies, and for those of papers: the share of examples that are not recognised.
    if task.names[task.best].is_fraction:
        for before, after in ((key(evaluation, task.best), "error"), (f"{TRAINING}/{task.best}", f"{TRAINING}/error")):
            if before in numbers:
                numbers[after] = 1 - numbers[before]
    beside = int(result.get("side_by_side", 1))
    numbers["seconds"] = numbers["seconds"] / beside
    kept = measured(folder)
    lists = {name: tuple(found) for name, found in kept.items() if isinstance(found, list)}
    numbers |= {name: found for name, found in kept.items() if name not in lists}
    return Outcome(seed, True, why, numbers, lists, log, beside)


def training_numbers(log: Sequence[Mapping[str, Any]], task: Task) -> dict[str, float]:
    """The means of the task's numbers and of the loss over the last epoch of training, or all of a shorter one."""
    lines = [line for line in log if line["kind"] == "train"]
    if not lines:
        return {}
    found = {}
    for name in ("loss", *task.names):
        weights, values, before = [], [], 0
        for line in lines:
            if line["epoch"] > lines[-1]["epoch"] - 1 and line.get(name) is not None:
                weights.append(line["step"] - before)
                values.append(line[name])
            before = line["step"]
        if values:
            found[f"{TRAINING}/{name}"] = math.fsum(w * x for w, x in zip(weights, values, strict=True)) / sum(weights)
    return found


def _names(config: Config, task: Task, study: Study) -> Names:
    """How the numbers of a study are shown."""
    trained = {
        f"{TRAINING}/{name}": shown._replace(label=f"{shown.label} in training", title="")
        for name, shown in task.names.items()
    }
    losses = {"loss": Shown("loss"), f"{TRAINING}/loss": Shown("loss in training")}
    errors = {"error": Shown("error", "{:.2%}"), f"{TRAINING}/error": Shown("error in training", "{:.2%}")}
    own = {name: Shown(name, study.measure(name).form) for name in study.measures}
    is_fraction = task.names[task.best].is_fraction
    return {**losses, **(errors if is_fraction else {}), **trained, **shown_names(config, task), **own}
