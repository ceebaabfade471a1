"""Everything that a process needs for a run, put together from the config before anything is written."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh
from rich.console import Console

from resnet_jax import data
from resnet_jax.config import Config
from resnet_jax.config_files import save_config
from resnet_jax.cost.count import count_macs_of
from resnet_jax.cost.peaks import images_per_second_at_peak
from resnet_jax.data.fills import same_shapes
from resnet_jax.files import explain_failed_write, write_atomically
from resnet_jax.logs.run_log import RunLog
from resnet_jax.run.environment import append_session, describe_environment, read_sessions
from resnet_jax.run.evaluate import Evaluations, batching, make_evaluations
from resnet_jax.run.kept import kept_of
from resnet_jax.run.predict import CLASS_NAMES
from resnet_jax.run.revisions import REVISION, changes_since
from resnet_jax.run.start import Beginning, load_beginning
from resnet_jax.run.teacher import Teacher, load_teacher
from resnet_jax.runtime.mesh import make_mesh
from resnet_jax.survival.non_finite import SkippingBatches, layer_names
from resnet_jax.tasks.assemble import Training, assemble, compute_dtype
from resnet_jax.tasks.task import Task
from resnet_jax.training.frozen import partition, trained_of
from resnet_jax.training.state import TrainState


@dataclass(frozen=True)
class Session:
    """A run in this process.

    Attributes:
      stream: the batches of the data. It remembers the broken images that were left out.
      batches: those of `stream`, without the batches that rollbacks leave out.
      beginning: loads the weights that the run starts from, once; None = random variables.
      teacher: the network that the task learns from; None = it learns from the data alone.
      say: prints a line, on the first process.
      console: where progress is shown.
      first: whether this is the process that writes.
      forgive: whether the run goes on, with a warning, after a failed write.
    """

    config: Config
    workdir: epath.Path
    task: Task
    mesh: Mesh
    source: data.Source
    evaluations: Evaluations
    training: Training
    stream: Any
    batches: SkippingBatches
    beginning: Callable[[], Beginning | None]
    teacher: Teacher | None
    say: Callable[[str], None]
    console: Console
    first: bool
    forgive: bool

    @property
    def key(self) -> jax.Array:
        return jax.random.key(self.config.seed)

    @property
    def like(self) -> TrainState:
        """The state's shapes, dtypes and shardings."""
        return self.training.init_state.eval_shape(self.key)

    def lay_out_folder(self) -> None:
        """Writes the files that tell a run apart from any other folder."""
        if not self.first:
            return
        with explain_failed_write(self.workdir):
            self.workdir.mkdir(parents=True, exist_ok=True)
        write_atomically(self.workdir / CLASS_NAMES, json.dumps(self.source.class_names))
        save_config(self.config, self.workdir)  # last: a folder with a config is a run

    def record(self, from_step: int, continued: bool, **facts: Any) -> None:
        """Enters this session into `environment.json`, and prints what has changed since the session before.

        Args:
          facts: further entries.
        """
        if not self.first:
            return
        fingerprints = {"train": data.fingerprint(self.source)}
        for one, source in zip(self.config.evaluations, self.evaluations.sources, strict=True):
            fingerprints[f"eval/{one.name}" if one.name else "eval"] = data.fingerprint(source)
        session = describe_environment(seed=self.config.seed, from_step=from_step, data=fingerprints)
        before = read_sessions(self.workdir) if continued else []
        for change in changes_since(before, self.config, self.training.plan):
            self.say(f"This run was begun by an earlier version. Since then: {change}")
        if changed := append_session(self.workdir, {**session, **facts, "revision": REVISION}):
            self.say("Since the session before, this has changed:\n  " + "\n  ".join(changed))

    def open_log(self, from_step: int, log_state: list[Any]) -> RunLog:
        config, plan, params = self.config, self.training.plan, self.like.params
        one = {
            name: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype) for name, leaf in self.training.batch.items()
        }
        macs = count_macs_of(self.task.predict, self.like.variables, one)
        return RunLog(
            self.workdir,
            total_steps=plan.total,
            start_step=from_step,
            images_per_step=config.batch_size,
            steps_per_epoch=float(plan.steps_per_epoch),
            learning_rate=plan.lr,
            names=self.evaluations.names,
            layers=layer_names(partition(params, trained_of(params, self.training.groups))[0]),
            images_per_second_at_peak=images_per_second_at_peak(macs, compute_dtype(config), self.mesh.size)
            if same_shapes(self.task.fills[0], config.data)  # images of another size cost another arithmetic
            else None,
            log_state=log_state,
            forgive_failed_writes=self.forgive,
            console=self.console,
        )


def prepare(
    config: Config, workdir: epath.Path, task: Task, *, known: bool, console: Console, say: Callable[[str], None]
) -> Session:
    """Opens the data and assembles the functions that train the config. It writes nothing.

    Args:
      known: whether the folder holds this run already.
    Raises:
      ConfigError: the config cannot be run here, or the weights that it starts from or its teacher do not fit.
      DataError: the data set cannot be read, or does not fit the config.
      WeightsError: the weights that it starts from, or those of its teacher, cannot be found, downloaded or read.
    """
    mesh = make_mesh()
    source = data.load_source(config.data, config.data.train_split)
    task.check_source(source)
    beginning = cache(partial(load_beginning, config, task, source.class_names))
    kept = kept_of(config, task, beginning(), say) if task.frozen else None
    if kept:
        task = kept.with_kept()
    evaluations = make_evaluations(config, task)
    teacher = load_teacher(config, source.class_names) if config.distil.teacher else None
    if teacher:
        task = teacher.teach(task, config)
    training = assemble(config, task, mesh, num_images=len(source))
    stream = data.train_batches(
        kept.rows(source) if kept else source,
        config.data,
        seed=config.seed,
        fill=task.fills[0],
        **batching(config.batch_size),
    )
    if not known and (begun := beginning()):
        for remark in begun.remarks:
            say(f"start.weights: {remark}")
    if teacher:
        teacher.check_fits(task, training.batch)
        for remark in () if known else teacher.remarks:
            say(f"distil.teacher: {remark}")
    return Session(
        config=config,
        workdir=workdir,
        task=task,
        mesh=mesh,
        source=source,
        evaluations=evaluations,
        training=training,
        stream=stream,
        batches=SkippingBatches(stream),
        beginning=beginning,
        teacher=teacher,
        say=say,
        console=console,
        first=jax.process_index() == 0,
        # Several processes must stay together, so a failed write stops all of them.
        forgive=config.checkpoint.on_error == "continue" and jax.process_count() == 1,
    )
