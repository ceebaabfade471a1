"""Trains from the first step, or from the newest checkpoint, to the end."""

import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, cast

import jax
from etils import epath
from rich.console import Console

from resnet_jax import data
from resnet_jax.config import Config
from resnet_jax.config_files import check_same_run
from resnet_jax.errors import NonFiniteLossError
from resnet_jax.files import open_folder, read_json
from resnet_jax.models.forms import forms_of_this_machine
from resnet_jax.run.evaluate import key, shown_names
from resnet_jax.run.grids import calibrated
from resnet_jax.run.predict import load_run, open_checkpoints
from resnet_jax.run.result import RESULT, summary, write_result
from resnet_jax.run.session import Session, prepare
from resnet_jax.runtime.hosts import check_same_everywhere, describe_code
from resnet_jax.runtime.mesh import split_batch
from resnet_jax.runtime.programs import tell_of_compiling
from resnet_jax.survival.checkpoint import Checkpoints
from resnet_jax.survival.non_finite import ROLLBACKS_AT_MOST
from resnet_jax.survival.signals import Asked, StopRequest
from resnet_jax.survival.watchdog import Watchdog
from resnet_jax.tasks.assemble import freezes
from resnet_jax.tasks.table import settled, task_of
from resnet_jax.tasks.task import Task
from resnet_jax.training.levels import Phase
from resnet_jax.training.loop import Loop, fit
from resnet_jax.training.sparse import masks_in, zeros_by_layer
from resnet_jax.training.state import TrainState
from resnet_jax.training.step import TrainStep


@dataclass(frozen=True)
class Beside:
    """What a run gets from outside that is trained in one program with others, each in a thread of its own.

    Attributes:
      step: the step to take instead, from the number of a phase and its step.
      stop: whether the run is to stop: a thread gets no signals.
      runs: how many runs share the program.
    """

    step: Callable[[int, TrainStep], TrainStep]
    stop: Asked
    runs: int


@forms_of_this_machine()
def train(
    config: Config,
    workdir: epath.PathLike,
    *,
    task: Task | None = None,
    console: Console | None = None,
    beside: Beside | None = None,
) -> TrainState:
    """Trains to the end of the config's epochs, from the newest checkpoint in `workdir` if there is one.

    It leaves in `workdir`: `config.json`, `class_names.json`, `environment.json`, `metrics.jsonl`, `tensorboard/`,
    `checkpoints/`, `curves.png` and, once complete, `result.json` (and `broken_images.json`, if images were left out).
    A complete run is not trained again.

    Args:
      task: what to train for; None = the task that the config names. A task of your own is not part of the config and
        is not saved. Pass the same task again to continue, evaluate or read the run.
      beside: None, except for a run that shares its program with others.

    Returns the final state.

    Raises:
      ConfigError: the config cannot be run here, or `workdir` holds a run with another config.
      DataError: the data set cannot be read, or does not fit the config.
      NonFiniteLossError: training diverged, and `config.on_non_finite` does not help. The last checkpoint is whole.
      StorageError: a file could not be written. The last checkpoint is whole.
      Preempted: SIGTERM or SIGINT. The run is saved and can be continued.
    """
    started = time.perf_counter()
    console = console or Console(quiet=jax.process_index() > 0)
    say = partial(console.print, markup=False, emoji=False, highlight=False, soft_wrap=True)
    workdir, config = open_folder(workdir), settled(config)
    # The pipeline and the optimizer would not notice a difference: each process would train its own version of the run.
    check_same_everywhere({"config": json.dumps(asdict(config)), "workdir": str(workdir), **describe_code()})
    known = check_same_run(config, workdir)
    if known and (workdir / RESULT).exists():
        return _read_complete(config, workdir, task, say)
    session = prepare(config, workdir, task or task_of(config), known=known, console=console, say=say)
    session.lay_out_folder()
    state, seconds_before = _train_past_rollbacks(session, beside)
    facts = {"side_by_side": beside.runs} if beside else {}
    _finish(session, state, seconds_before + time.perf_counter() - started, **facts)
    return state


def _read_complete(config: Config, workdir: epath.Path, task: Task | None, say: Any) -> TrainState:
    done = load_run(workdir, task=task)
    names, first = shown_names(config, done.task), config.evaluations[0].name
    told = summary(read_json(workdir / RESULT), key(first, done.task.best), names, key(first, "count"))
    say(f"{workdir} holds a complete run, nothing to train: {told}")
    return done.state


def _train_past_rollbacks(session: Session, beside: Beside | None) -> tuple[TrainState, float]:
    """Returns the last state, and the seconds that earlier sessions of the run took."""
    config, batches = session.config, session.batches
    beginning: dict[str, Any] = {"data": batches.get_state(), "log": []}
    with (
        nullcontext(beside.stop) if beside else StopRequest(session.mesh) as stop,
        Watchdog(config.watchdog_seconds) as watchdog,
        open_checkpoints(config, session.workdir, session.evaluations.best) as checkpoints,
    ):
        loop = Loop(
            batches=batches,
            sharding=split_batch(session.mesh),
            train_steps=_steps(session, beside),
            evaluations=session.evaluations.passes,
            plan=session.training.plan,
            checkpoints=checkpoints,
            stop=stop,
            watchdog=watchdog,
            forgive_failed_writes=session.forgive,
        )
        while True:
            try:
                return _train_from_newest(session, loop, checkpoints, beginning)
            except NonFiniteLossError as error:
                if config.on_non_finite != "rollback" or batches.rollbacks >= ROLLBACKS_AT_MOST:
                    raise
                batches.skip_before(error.step)
                session.say(f"Rolling back past the batch of step {error.step}: {error}")


def _steps(session: Session, beside: Beside | None) -> tuple[tuple[int, TrainStep], ...]:
    """The step of each phase, with the number of updates before it."""
    phases = session.training.phases

    def told(number: int, phase: Phase, step: TrainStep) -> TrainStep:
        which = f" of level {phase.level!r}" if len(phases) > 1 else ""
        taken: Any = beside.step(number, step) if beside else step
        return cast(TrainStep, tell_of_compiling(taken, f"the training step{which}", session.say))

    return tuple((phase.start, told(number, phase, step)) for number, (phase, step) in enumerate(phases))


def _train_from_newest(
    session: Session, loop: Loop, checkpoints: Checkpoints, beginning: dict[str, Any]
) -> tuple[TrainState, float]:
    """As `_train_past_rollbacks`, without handling rollbacks.

    Args:
      beginning: what a checkpoint from before the first step would remember.
    """
    like = session.like
    begun = session.beginning() if freezes(like.params, session.training.groups) else None
    restored = checkpoints.restore_newest(begun.to_save(like) if begun else like, set_aside=True)
    if restored is None:
        begun = session.beginning()
        state, memory = session.training.init_state(session.key), beginning
        if begun and session.config.quantize.images:
            begun = calibrated(begun, session.config, state)
        if begun:
            state, memory = begun.begin(state), {**memory, "start": begun.digest}
    else:
        state, memory = restored.state, restored.memory
        if begun:
            begun.check_same(memory, session.workdir)
            state = begun.restore(state, like)
        session.say(f"Resuming {session.workdir} after step {restored.step} of {loop.plan.total}")
    start = {"start": memory["start"]} if "start" in memory else {}
    if teacher := session.teacher:
        if restored:
            teacher.check_same(memory, session.workdir)
        state, start = teacher.begin(state, session.mesh), {**start, "teacher": teacher.digest}
    session.batches.set_state(memory["data"])
    from_step = int(state.step)
    session.record(from_step, continued=restored is not None, **start)
    loop = replace(loop, remembered=start, to_save=begun.to_save if begun else loop.to_save)
    with session.open_log(from_step, memory["log"]) as log:
        return fit(state, loop, log).replace(fixed=None), log.seconds_before


def _finish(session: Session, state: TrainState, seconds: float, **more: Any) -> None:
    """Writes the result, which marks the run as complete, and prints it."""
    broken = data.found_by_any_host(session.stream.broken.reasons)
    if not session.first:
        return
    evaluations, workdir = session.evaluations, session.workdir
    facts: dict[str, Any] = {"seconds": round(seconds, 1), "devices": session.mesh.size, "broken": broken, **more}
    if (masks := masks_in(state.opt_state)) is not None:
        facts["sparsity"] = zeros_by_layer(state.eval_variables["params"], masks)
    result = write_result(session.config, workdir, evaluations.best, evaluations.names, **facts)
    told = summary(result, evaluations.best, evaluations.names, evaluations.count)
    if "sparsity" in facts:
        session.say(f"{facts['sparsity']['all']:.2%} of the weights are zero; {RESULT} has each layer")
    session.say(f"{told}\nCurves, metrics and checkpoints are in {workdir}/")
