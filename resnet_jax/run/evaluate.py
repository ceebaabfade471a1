"""Evaluations: of a config's split, of several in a run, and in detail."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import jax

from resnet_jax import data
from resnet_jax.compress import Folded
from resnet_jax.config import Classify, Config, DataConfig, Eval
from resnet_jax.data.fills import Fill
from resnet_jax.logs.shown import Names
from resnet_jax.runtime.mesh import make_mesh
from resnet_jax.tasks.assemble import build_model
from resnet_jax.tasks.classify.look import make_look
from resnet_jax.tasks.classify.measure import make_measure, report_in_detail
from resnet_jax.tasks.classify.report import EvalReport
from resnet_jax.tasks.table import task_of
from resnet_jax.tasks.task import Task
from resnet_jax.training.evaluate import Evaluate, Measure, Pass, Report, make_evaluate, make_pass
from resnet_jax.training.state import TrainState


@dataclass(frozen=True)
class Evaluations:
    """The evaluations of a run. If an evaluation has a name, its numbers are called `NAME/top1` and so on.

    Attributes:
      passes: the evaluations, each `variables -> report`.
      sources: the splits, in the same order.
      best: the name of the number of the first evaluation by which checkpoints are compared.
      count: the name of the number of the first evaluation that says how many examples there are.
      names: how the numbers are shown, for the evaluations and for training.
    """

    passes: tuple[Evaluate, ...]
    sources: tuple[data.Source, ...]
    best: str
    count: str
    names: Names


def make_evaluations(config: Config, task: Task) -> Evaluations:
    """The evaluations of a run.

    Raises:
      DataError, ConfigError: a split cannot be read, or is not what the task needs.
    """
    sources = tuple(_source(one, config, task) for one in config.evaluations)
    passes = tuple(
        _named(one.name, make_evaluate(task.measure, report_of(task, source), **_eval_data(config, task, source)))
        for one, source in zip(config.evaluations, sources, strict=True)
    )
    first = config.evaluations[0].name
    return Evaluations(passes, sources, key(first, task.best), key(first, "count"), shown_names(config, task))


def report_of(task: Task, source: data.Source) -> Report:
    """What makes the results of a split."""
    if task.report_of:
        return task.report_of(source)
    assert task.report is not None, "a task has one of both"
    return task.report


def key(evaluation: str, number: str) -> str:
    """The name that a number of an evaluation has in the log."""
    return f"{evaluation}/{number}" if evaluation else number


def shown_names(config: Config, task: Task) -> Names:
    """How the numbers of a run are shown: those of its evaluations and of training."""
    named = {
        key(one.name, number): shown._replace(label=f"{one.name} {shown.label}", title=f"{one.name} {shown.title}")
        for one in config.evals
        for number, shown in task.names.items()
    }
    return {**named, **task.names}


def evaluate(config: Config, state: TrainState, *, task: Task | None = None) -> dict[str, float]:
    """The report of the task for the config's evaluation split, and `count`.

    Classification reports `{"loss", "top1", "top5"}`, accuracies as fractions. A config with `evals` gives the numbers
    of all of them, as `NAME/top1` and so on.

    Args:
      task: the task that `state` was trained for; None = the task that the config names.
    """
    variables = state.eval_variables
    reports = [run(variables) for run in make_evaluations(config, task or task_of(config)).passes]
    return {name: number for report in reports for name, number in report.items()}


def evaluate_in_detail(config: Config, state: TrainState, folded: Folded | None = None) -> EvalReport:
    """As `evaluate`, for the first evaluation, with the confusion matrix, accuracies of classes and the calibration.

    Args:
      folded: the network of `state` after folding, which is evaluated instead of the network as it was trained.
    """
    task = task_of(config)
    model, variables = folded[:2] if folded else (build_model(config), state.eval_variables)
    flip = isinstance(config.task, Classify) and config.task.eval_flip
    measure = make_measure(make_look(model, flip=flip), task.prepare, in_detail=True)
    _, look = split_and_pass(config.evaluations[0], config, task, measure)
    return report_in_detail(*look(variables))


def split_and_pass(one: Eval, config: Config, task: Task, measure: Measure) -> tuple[data.Source, Pass]:
    """The split of an evaluation, and the pass that measures it.

    Raises:
      DataError, ConfigError: the split cannot be read, or is not what the task needs.
    """
    source = _source(one, config, task)
    return source, make_pass(measure, **_eval_data(config, task, source))


def batching(batch_size: int) -> dict[str, Any]:
    """The arguments that tell `data` which rows of a batch this process makes."""
    return {
        "batch_size": batch_size,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }


def _named(name: str, evaluate: Evaluate) -> Evaluate:
    def named(variables: Any) -> dict[str, float]:
        return {key(name, number): value for number, value in evaluate(variables).items()}

    return named if name else evaluate


def _source(one: Eval, config: Config, task: Task) -> data.Source:
    source = data.load_source(_data_of(one, config.data), one.split)
    (task.check_eval_source or task.check_source)(source)
    return source


def _data_of(one: Eval, training: DataConfig) -> DataConfig:
    elsewhere: Mapping[str, Any] = {"name": one.data, "holdout": 0.0} if one.data else {}
    return replace(training, eval_split=one.split, **elsewhere)


def _eval_data(config: Config, task: Task, source: data.Source) -> dict[str, Any]:
    """What a pass over a split needs besides what is measured."""
    parts = task.parts(source) if task.parts else ((task.fills[1], source),)
    return {**passing_all(parts, config.data, config.eval_batch_size), "split": bool(task.split)}


def passing_all(parts: Sequence[tuple[Fill, data.Source]], config: DataConfig, batch_size: int) -> dict[str, Any]:
    """What `make_pass` is told of data and devices, for the parts of a split, each with its fill."""
    passes = [passing(source, config, fill, batch_size) for fill, source in parts]
    batches = lambda: chain.from_iterable(one["batches"]() for one in passes)
    return {"mesh": make_mesh(), "batches": batches, "count": sum(one["count"] for one in passes)}


def passing(source: data.Source, config: DataConfig, fill: Fill, batch_size: int, start: int = 0) -> dict[str, Any]:
    """What `make_pass` is told of data and devices, for the images from number `start` on."""
    # Padding is masked, so a batch that the devices do not divide is simply rounded up.
    mesh = make_mesh()
    size = -(-batch_size // mesh.size) * mesh.size
    batches = partial(data.eval_batches, source, config, fill=fill, start=start, **batching(size))
    return {"mesh": mesh, "batches": batches, "count": len(source) - start}
