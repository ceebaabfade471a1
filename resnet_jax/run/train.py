"""Train, evaluate, predict: wires models, data and training together. The only module that knows them all."""

import json
import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, UInt8
from rich.console import Console

from resnet_jax import data
from resnet_jax.config import Config
from resnet_jax.config_files import check_same_run, save_config, saved_config
from resnet_jax.cost.count import count_macs_of
from resnet_jax.cost.peaks import images_per_second_at_peak
from resnet_jax.errors import CheckpointError, NonFiniteLossError
from resnet_jax.files import explain_failed_write, open_folder, read_json, write_atomically
from resnet_jax.logs.run_log import RunLog
from resnet_jax.models import ResNet
from resnet_jax.run.environment import append_session, describe_environment, last_command, read_sessions
from resnet_jax.run.result import RESULT, summary, write_result
from resnet_jax.run.revisions import REVISION, changes_since
from resnet_jax.runtime.hosts import check_same_everywhere, describe_code
from resnet_jax.runtime.mesh import make_mesh, split_batch
from resnet_jax.runtime.programs import tell_of_compiling
from resnet_jax.survival.checkpoint import Checkpoints
from resnet_jax.survival.non_finite import ROLLBACKS_AT_MOST, SkippingBatches, layer_names
from resnet_jax.survival.signals import StopRequest
from resnet_jax.survival.watchdog import Watchdog
from resnet_jax.tasks.assemble import assemble, build_model, compute_dtype, init_state_of
from resnet_jax.tasks.classify.measure import make_measure, report_in_detail
from resnet_jax.tasks.classify.report import EvalReport
from resnet_jax.tasks.classify.task import classify
from resnet_jax.tasks.task import Task
from resnet_jax.training.evaluate import Evaluate, make_evaluate, make_pass
from resnet_jax.training.frozen import partition, trained_of
from resnet_jax.training.loop import fit
from resnet_jax.training.state import TrainState

Which = Literal["last", "best"]
CLASS_NAMES = "class_names.json"


@dataclass(frozen=True)
class Run:
    """A trained run as its folder holds it."""

    config: Config
    task: Task
    state: TrainState
    class_names: tuple[str, ...]

    @property
    def model(self) -> ResNet:
        """The network that the config describes; a task of your own may have another."""
        return build_model(self.config)


def train(
    config: Config, workdir: epath.PathLike, *, task: Task | None = None, console: Console | None = None
) -> TrainState:
    """Trains to the end of the config's epochs, from the newest checkpoint in `workdir` if there is one.

    Leaves in `workdir`: `config.json`, `class_names.json`, `environment.json`, `metrics.jsonl`, `tensorboard/`,
    `checkpoints/`, `curves.png` and, once complete, `result.json` (and `broken_images.json`, if images were left out).
    A complete run is not trained again.

    Args:
      task: what to train for; None = classification. It is no part of the config and is not saved: whoever continues,
        evaluates or reads the run gives the same task again.

    Returns the final state.

    Raises:
      ConfigError: the config cannot be run here, or `workdir` holds a run with another config.
      DataError: the data set cannot be read, or is not what the config says.
      NonFiniteLossError: training diverged, and `config.on_non_finite` does not help; the last checkpoint is whole.
      StorageError: something could not be written; the last checkpoint is whole.
      Preempted: SIGTERM or SIGINT; the run is saved and can be continued.
    """
    started = time.perf_counter()
    first = jax.process_index() == 0
    console = console or Console(quiet=not first)
    say = partial(console.print, markup=False, emoji=False, highlight=False, soft_wrap=True)
    workdir = open_folder(workdir)
    # The pipeline and the optimizer would not notice: each process would go on with its own idea of the run.
    check_same_everywhere({"config": json.dumps(asdict(config)), "workdir": str(workdir), **describe_code()})
    known = check_same_run(config, workdir)
    if known and (workdir / RESULT).exists():
        done, result = load_run(workdir, task=task), read_json(workdir / RESULT)
        told = summary(result, done.task.best, done.task.names)
        say(f"{workdir} holds a complete run, nothing to train: {told}")
        return done.state

    mesh = make_mesh()
    task = task or _classify(config)
    source = data.load_source(config.data, config.data.train_split)
    eval_source = data.load_source(config.data, config.data.eval_split)
    task.check_source(source)
    training = assemble(config, task, mesh, num_images=len(source))
    plan = training.plan
    evaluate = _make_evaluate(config, task, eval_source)
    stream = data.train_batches(
        source, config.data, seed=config.seed, fill=task.fills[0], **_batching(config.batch_size)
    )
    batches = SkippingBatches(stream)
    forgive = config.checkpoint.on_error == "continue" and jax.process_count() == 1  # several must stay together

    if first:
        with explain_failed_write(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
        write_atomically(workdir / CLASS_NAMES, json.dumps(source.class_names))
        save_config(config, workdir)  # last: a folder with a config is a run

    fingerprints = {"train": data.fingerprint(source), "eval": data.fingerprint(eval_source)} if first else {}
    key = jax.random.key(config.seed)
    like = training.init_state.eval_shape(key)
    one = {name: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype) for name, leaf in training.batch.items()}
    macs = count_macs_of(task.predict, like.variables, one)
    beginning: dict[str, Any] = {"data": batches.get_state(), "log": []}

    def go() -> tuple[TrainState, RunLog]:
        """From the newest checkpoint to the end."""
        restored = checkpoints.restore_newest(like, set_aside=True)
        if restored is None:
            state, memory = training.init_state(key), beginning
        else:
            state, memory = restored.state, restored.memory
            say(f"Resuming {workdir} after step {restored.step} of {plan.total}")
        batches.set_state(memory["data"])
        if first:
            session = describe_environment(seed=config.seed, from_step=int(state.step), data=fingerprints)
            for change in changes_since(read_sessions(workdir) if restored else [], config, plan):
                say(f"This run was begun by an earlier version. Since then: {change}")
            if changed := append_session(workdir, {**session, "revision": REVISION}):
                say("Since the session before, this has changed:\n  " + "\n  ".join(changed))
        with RunLog(
            workdir,
            total_steps=plan.total,
            start_step=int(state.step),
            images_per_step=config.batch_size,
            steps_per_epoch=float(plan.steps_per_epoch),
            learning_rate=plan.lr,
            names=task.names,
            layers=layer_names(partition(like.params, trained_of(like.params, config.optim.groups))[0]),
            images_per_second_at_peak=images_per_second_at_peak(macs, compute_dtype(config), mesh.size),
            log_state=memory["log"],
            forgive_failed_writes=forgive,
            console=console,
        ) as log:
            sharding = split_batch(mesh)
            train_step: Any = tell_of_compiling(training.train_step, "the training step", say)
            state = fit(
                *(state, batches, sharding, train_step, evaluate, plan, checkpoints, log, stop, watchdog),
                forgive_failed_writes=forgive,
            )
        return state, log

    with (
        StopRequest(mesh) as stop,
        Watchdog(config.watchdog_seconds) as watchdog,
        _open_checkpoints(config, workdir, task.best) as checkpoints,
    ):
        while True:
            try:
                state, log = go()
                break
            except NonFiniteLossError as error:
                if config.on_non_finite != "rollback" or batches.rollbacks >= ROLLBACKS_AT_MOST:
                    raise
                batches.skip_before(error.step)
                say(f"Rolling back past the batch of step {error.step}: {error}")

    broken = data.found_by_any_host(stream.broken.reasons)
    if first:
        seconds = log.seconds_before + time.perf_counter() - started
        facts: dict[str, Any] = {"seconds": round(seconds, 1), "devices": mesh.size, "broken": broken}
        result = write_result(config, workdir, task.best, task.names, **facts)
        say(f"{summary(result, task.best, task.names)}\nCurves, metrics and checkpoints are in {workdir}/")
    return state


def evaluate(config: Config, state: TrainState, *, task: Task | None = None) -> dict[str, float]:
    """What the task reports of the config's evaluation split, and `count`.

    Classification reports `{"loss", "top1", "top5"}`, accuracies as fractions.

    Args:
      task: the one that `state` was trained for; None = classification.
    """
    task = task or _classify(config)
    return _make_evaluate(config, task, _eval_source(config, task))(state.eval_variables)


def evaluate_in_detail(config: Config, state: TrainState) -> EvalReport:
    """As `evaluate`, with the confusion matrix, the accuracy of each class and the calibration."""
    model = build_model(config)
    task = classify(config, model)
    measure = make_measure(model, task.prepare, in_detail=True)
    measure_all = make_pass(measure, **_eval_data(config, task, _eval_source(config, task)))
    return report_in_detail(*measure_all(state.eval_variables))


def predict(run: Run, images: UInt8[np.ndarray, "N H W C"]) -> dict[str, Array]:
    """What the run's task says of uint8 images as `resnet_jax.data.load_image` prepares them, by name.

    Classification says `probability` (N, K), of each class.
    """
    return run.task.predict(run.state.eval_variables, {"image": jnp.asarray(images)})


def load_run(workdir: epath.PathLike, which: Which = "last", *, task: Task | None = None) -> Run:
    """Reads a run back from its folder.

    Args:
      which: the newest checkpoint, or the one whose evaluation was best.
      task: the one that was trained for; None = classification.

    Raises:
      ConfigError: the folder holds no run.
      CheckpointError: it holds no whole checkpoint.
    """
    workdir = open_folder(workdir)
    config = saved_config(workdir)
    task = task or _classify(config)
    like = init_state_of(config, task, make_mesh()).eval_shape(jax.random.key(0))
    with _open_checkpoints(config, workdir, task.best) as checkpoints:
        restored = checkpoints.restore_best(like) if which == "best" else checkpoints.restore_newest(like)
    if restored is None:
        raise CheckpointError(f"{workdir} holds no checkpoint yet; continue its training{last_command(workdir)}")
    class_names = tuple(read_json(workdir / CLASS_NAMES))
    return Run(config=config, task=task, state=restored.state, class_names=class_names)


def _classify(config: Config) -> Task:
    return classify(config, build_model(config))


def _open_checkpoints(config: Config, workdir: epath.Path, best: str) -> Checkpoints:
    keep = config.checkpoint
    return Checkpoints(workdir / "checkpoints", keep_last=keep.keep_last, keep_best=keep.keep_best, best=best)


def _eval_source(config: Config, task: Task) -> data.Source:
    source = data.load_source(config.data, config.data.eval_split)
    task.check_source(source)
    return source


def _make_evaluate(config: Config, task: Task, source: data.Source) -> Evaluate:
    return make_evaluate(task.measure, task.report, **_eval_data(config, task, source))


def _eval_data(config: Config, task: Task, source: data.Source) -> dict[str, Any]:
    """What a pass over a split needs besides what is measured."""
    # Padding is masked, so a batch that the devices do not divide is simply rounded up.
    mesh = make_mesh()
    size = -(-config.eval_batch_size // mesh.size) * mesh.size
    batches = partial(data.eval_batches, source, config.data, fill=task.fills[1], **_batching(size))
    return {"mesh": mesh, "batches": batches, "count": len(source)}


def _batching(batch_size: int) -> dict[str, Any]:
    return {
        "batch_size": batch_size,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }
