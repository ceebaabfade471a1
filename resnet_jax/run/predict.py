"""Reads runs back from their folders, and predicts with them."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, UInt8

from resnet_jax.config import Config
from resnet_jax.config_files import saved_config
from resnet_jax.errors import CheckpointError
from resnet_jax.files import open_folder, read_json
from resnet_jax.models import ResNet
from resnet_jax.run.environment import last_command
from resnet_jax.run.evaluate import key
from resnet_jax.run.start import load_frozen
from resnet_jax.runtime.mesh import make_mesh
from resnet_jax.survival.checkpoint import Checkpoints
from resnet_jax.tasks import assemble
from resnet_jax.tasks.table import task_of
from resnet_jax.tasks.task import Task
from resnet_jax.training.state import TrainState

Which = Literal["last", "best"]
CLASS_NAMES = "class_names.json"


@dataclass(frozen=True)
class Run:
    """A trained run, read from its folder."""

    config: Config
    task: Task
    state: TrainState
    class_names: tuple[str, ...]

    @property
    def title(self) -> str:
        """What it is, for people."""
        pruned = ", pruned," if self.config.model.widths else ""
        return f"{self.config.model.name}{pruned} after {int(self.state.step)} steps"

    @property
    def model(self) -> ResNet:
        """The network that the config describes. A task of your own may have another."""
        return assemble.build_model(self.config)


def load_run(workdir: epath.PathLike, which: Which = "last", *, task: Task | None = None) -> Run:
    """Reads a run back from its folder.

    Args:
      which: the newest checkpoint, or the one whose evaluation was best.
      task: the task that was trained for; None = the task that the config names.

    Raises:
      ConfigError: the folder holds no run.
      CheckpointError: it holds no whole checkpoint, or the weights that the run started from are not the same any more.
    """
    workdir = open_folder(workdir)
    config = saved_config(workdir)
    task = task or task_of(config)
    like = assemble.init_state_of(config, task, make_mesh()).eval_shape(jax.random.key(0))
    class_names = tuple(read_json(workdir / CLASS_NAMES))
    begun = load_frozen(config, task, class_names)
    saved = begun.to_save(like) if begun else like
    with open_checkpoints(config, workdir, key(config.evaluations[0].name, task.best)) as checkpoints:
        restored = checkpoints.restore_best(saved) if which == "best" else checkpoints.restore_newest(saved)
    if restored is None:
        raise CheckpointError(f"{workdir} holds no checkpoint yet; continue its training{last_command(workdir)}")
    state = restored.state
    if begun:
        begun.check_same(restored.memory, workdir)
        state = begun.restore(state, like)
    return Run(config=config, task=task, state=state, class_names=class_names)


def open_checkpoints(config: Config, workdir: epath.Path, best: str) -> Checkpoints:
    """The checkpoints of a run.

    Args:
      best: the name of the number that decides which checkpoints are best.
    """
    keep = config.checkpoint
    return Checkpoints(workdir / "checkpoints", keep_last=keep.keep_last, keep_best=keep.keep_best, best=best)


def predict(run: Run, images: UInt8[np.ndarray, "N *S C"]) -> dict[str, Array]:
    """The predictions of the run's task for uint8 images as `resnet_jax.data.load_image` prepares them, by name.

    Classification predicts `probability` (N, K), for each class. So does that of videos, of clips (N, T, H, W, C), or
    (N, V, T, H, W, C) for V clips of each video. Detection predicts `boxes` (N, D, 4) in pixels of these images,
    `scores`, `labels` (-1 = none) and, if the network has them, `masks`; `resnet_jax.detect` takes images of any sizes.
    """
    return run.task.predict(run.state.eval_variables, {run.task.sees: jnp.asarray(images)})
