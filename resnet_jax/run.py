"""Train, evaluate, predict: wires models, data and training together. The only module that knows them all."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float, UInt8
from rich.console import Console

from resnet_jax import data
from resnet_jax.assemble import assemble, build_model, init_state_of
from resnet_jax.compilation import tell_of_compiling
from resnet_jax.config import Config
from resnet_jax.config_file import check_same_run, save_config, saved_config
from resnet_jax.errors import CheckpointError, ConfigError, NonFiniteLossError
from resnet_jax.files import explain_failed_write, open_folder, read_json, write_atomically
from resnet_jax.hosts import check_same_everywhere, describe_code
from resnet_jax.models import ResNet
from resnet_jax.profile import count_macs
from resnet_jax.record import append_session, describe_environment, last_command, read_sessions
from resnet_jax.result import RESULT, summary, write_result
from resnet_jax.revisions import REVISION, changes_since
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.evaluate import make_detailed_evaluate, make_evaluate
from resnet_jax.training.loop import fit
from resnet_jax.training.mesh import make_mesh, split_batch
from resnet_jax.training.metrics import RunLog
from resnet_jax.training.non_finite import ROLLBACKS_AT_MOST, SkippingBatches, layer_names
from resnet_jax.training.peaks import images_per_second_at_peak
from resnet_jax.training.report import EvalReport
from resnet_jax.training.signals import StopRequest
from resnet_jax.training.state import TrainState, split_key
from resnet_jax.training.step import step_key
from resnet_jax.training.watchdog import Watchdog

Which = Literal["last", "best"]
CLASS_NAMES = "class_names.json"


@dataclass(frozen=True)
class TrainingBatch:
    """A batch as the network sees it, with pixel values back in [0, 1] and before label smoothing."""

    images: Float[np.ndarray, "N H W C"]
    targets: Float[np.ndarray, "N K"]
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """A trained run as its folder holds it."""

    config: Config
    model: ResNet
    state: TrainState
    class_names: tuple[str, ...]


def train(config: Config, workdir: epath.PathLike, *, console: Console | None = None) -> TrainState:
    """Trains to the end of the config's epochs, from the newest checkpoint in `workdir` if there is one.

    Leaves in `workdir`: `config.json`, `class_names.json`, `environment.json`, `metrics.jsonl`, `tensorboard/`,
    `checkpoints/`, `curves.png` and, once complete, `result.json` (and `broken_images.json`, if images were left out).
    A complete run is not trained again.

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
        result = read_json(workdir / RESULT)
        say(f"{workdir} holds a complete run, nothing to train: {summary(result)}")
        return load_run(workdir).state

    mesh = make_mesh()
    model = build_model(config)
    source = data.load_source(config.data, config.data.train_split)
    eval_source = data.load_source(config.data, config.data.eval_split)
    _check_classes(config, source.class_names)
    training = assemble(config, model, mesh, num_images=len(source))
    plan = training.plan
    evaluate = _make_evaluate(config, model, eval_source)
    stream = data.train_batches(source, config.data, seed=config.seed, **_batching(config.batch_size))
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
    macs = count_macs(model, image_size=config.data.train_size, channels=config.data.channels)
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
            layers=layer_names(like.params),
            images_per_second_at_peak=images_per_second_at_peak(macs, model.dtype, mesh.size),
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
        _open_checkpoints(config, workdir) as checkpoints,
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
        result = write_result(config, workdir, seconds=round(seconds, 1), devices=mesh.size, broken=broken)
        say(f"{summary(result)}\nCurves, metrics and checkpoints are in {workdir}/")
    return state


def evaluate(config: Config, state: TrainState) -> dict[str, float]:
    """Evaluates on the config's evaluation split: `{"loss", "top1", "top5", "count"}`, accuracies as fractions."""
    return _make_evaluate(config, build_model(config), _eval_source(config))(state.eval_variables)


def evaluate_in_detail(config: Config, state: TrainState) -> EvalReport:
    """As `evaluate`, with the confusion matrix, the accuracy of each class and the calibration."""
    return _make_evaluate(config, build_model(config), _eval_source(config), make=make_detailed_evaluate)(
        state.eval_variables
    )


def training_batch(config: Config, step: int) -> TrainingBatch:
    """The batch that update number `step` of a run with this config uses; the first is 1, as in the log.

    Raises:
      DataError: the data set cannot be read, or is not what the config says.
    """
    source = data.load_source(config.data, config.data.train_split)
    _check_classes(config, source.class_names)
    batches = data.train_batches(source, config.data, batch_size=config.batch_size, seed=config.seed)
    batches.set_state({"position": (step - 1) * config.batch_size})
    batch = next(batches)
    batches.close()
    _, run_key = split_key(jax.random.key(config.seed))
    augment = jax.jit(partial(data.augment, config=config.data, num_classes=config.model.num_classes))
    images, targets = jax.device_get(augment(step_key(run_key, step - 1), batch["image"], batch["label"]))
    pixels = images * np.array(config.data.std, np.float32) + np.array(config.data.mean, np.float32)
    return TrainingBatch(images=np.clip(pixels, 0, 1), targets=targets, class_names=source.class_names)


def predict(run: Run, images: UInt8[np.ndarray, "N H W C"]) -> Float[Array, "N K"]:
    """Class probabilities of uint8 images as `resnet_jax.data.load_image` prepares them."""
    normalized = data.normalize(jnp.asarray(images), run.config.data)
    return jax.nn.softmax(run.model.apply(run.state.eval_variables, normalized, train=False))


def load_run(workdir: epath.PathLike, which: Which = "last") -> Run:
    """Reads a run back from its folder.

    Args:
      which: the newest checkpoint, or the one with the best top-1 accuracy.

    Raises:
      ConfigError: the folder holds no run.
      CheckpointError: it holds no whole checkpoint.
    """
    workdir = open_folder(workdir)
    config = saved_config(workdir)
    model = build_model(config)
    like = init_state_of(config, model, make_mesh()).eval_shape(jax.random.key(0))
    with _open_checkpoints(config, workdir) as checkpoints:
        restored = checkpoints.restore_best(like) if which == "best" else checkpoints.restore_newest(like)
    if restored is None:
        raise CheckpointError(f"{workdir} holds no checkpoint yet; continue its training{last_command(workdir)}")
    class_names = tuple(read_json(workdir / CLASS_NAMES))
    return Run(config=config, model=model, state=restored.state, class_names=class_names)


def _open_checkpoints(config: Config, workdir: epath.Path) -> Checkpoints:
    keep = config.checkpoint
    return Checkpoints(workdir / "checkpoints", keep_last=keep.keep_last, keep_best=keep.keep_best)


def _eval_source(config: Config) -> data.Source:
    source = data.load_source(config.data, config.data.eval_split)
    _check_classes(config, source.class_names)
    return source


def _make_evaluate(config: Config, model: ResNet, source: data.Source, make: Any = make_evaluate) -> Any:
    # Padding is masked, so a batch that the devices do not divide is simply rounded up.
    mesh = make_mesh()
    size = -(-config.eval_batch_size // mesh.size) * mesh.size
    return make(
        model,
        partial(data.normalize, config=config.data),
        mesh,
        partial(data.eval_batches, source, config.data, **_batching(size)),
        count=len(source),
    )


def _batching(batch_size: int) -> dict[str, int]:
    return {
        "batch_size": batch_size,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }


def _check_classes(config: Config, class_names: Sequence[str]) -> None:
    if len(class_names) != config.model.num_classes:
        raise ConfigError(
            f"model.num_classes = {config.model.num_classes}, but {config.data.name} has {len(class_names)} classes; "
            f"set model.num_classes = {len(class_names)}"
        )
