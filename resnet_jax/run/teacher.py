"""The network that a run learns from: where it comes from, and whether it fits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from resnet_jax.config import Config, Preset, Segment
from resnet_jax.errors import CheckpointError, ConfigError, ModelError, WeightsError
from resnet_jax.models.headed import with_options
from resnet_jax.run.fitted import is_imagenet
from resnet_jax.run.named import network_of, open_named, segments
from resnet_jax.run.network import Network
from resnet_jax.run.predict import Run
from resnet_jax.runtime.mesh import replicated
from resnet_jax.survival.digests import digest_arrays, digest_json
from resnet_jax.tasks.distil import TEACHER, distilled
from resnet_jax.tasks.task import Task
from resnet_jax.training.accumulate import Batch
from resnet_jax.training.state import TrainState
from resnet_jax.weights.narrowing import first_few


@dataclass(frozen=True)
class Teacher:
    """A trained network that does not change.

    Attributes:
      name: the text of `config.distil.teacher`.
      variables: on the host.
      preset: how its images are prepared.
      remarks: what may not be meant, in a sentence each.
    """

    name: str
    model: Any
    variables: PyTree[np.ndarray]
    preset: Preset
    remarks: tuple[str, ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all arrays. All processes must ask for it together."""
        return digest_json(digest_arrays(jax.tree.map(jnp.asarray, self.variables)))

    def teach(self, task: Task, config: Config) -> Task:
        """The task of a run with this teacher. Raises as `distilled`."""
        return distilled(task, config.distil, self.model, config.data.preset, self.preset)

    def check_fits(self, task: Task, batch: Mapping[str, jax.ShapeDtypeStruct]) -> None:
        """Raises a ConfigError if the teacher cannot see these images, or if `distil.attention` does not fit.

        Args:
          task: what `teach` gave.
          batch: the shapes of a batch.
        """

        def loss(variables: PyTree[Array], fixed: PyTree[Array], part: Batch) -> Array:
            params = {**variables["params"], TEACHER: fixed}
            return task.loss(params, variables.get("batch_stats", {}), part, jax.random.key(0), None).loss

        (size, *_), *_ = (rows.shape for rows in batch.values())
        part = {**batch, "position": jax.ShapeDtypeStruct((size,), jnp.int32)}
        try:
            jax.eval_shape(loss, jax.eval_shape(task.init, jax.random.key(0)), self.variables, part)
        except ModelError as error:
            raise ConfigError(f"distil.teacher = {self.name!r}: {error}") from error

    def begin(self, state: TrainState, mesh: Mesh) -> TrainState:
        """The state of a run with this teacher, on every device."""
        # Every process has read the whole array.
        place = lambda array: jax.make_array_from_callback(array.shape, replicated(mesh), lambda index: array[index])
        return state.replace(fixed={TEACHER: jax.tree.map(place, self.variables)})

    def check_same(self, memory: Mapping[str, Any], workdir: Any) -> None:
        """Raises a CheckpointError if a run was begun with another teacher of this name."""
        if memory.get("teacher") != self.digest:
            raise CheckpointError(
                f"{workdir} was begun with distil.teacher = {self.name!r}, and this is not the same network any more. "
                "Bring the teacher back as it was, or start anew in another workdir"
            )


def load_teacher(config: Config, class_names: Sequence[str]) -> Teacher:
    """The network that `config.distil.teacher` names.

    Args:
      class_names: of the data set.

    Raises:
      ConfigError: there is no such network, or it has other classes, other channels or another purpose than the one
        that is trained.
      WeightsError, CheckpointError: it cannot be downloaded or read.
    """
    options = config.distil
    try:
        opened = open_named(options.teacher, options.checkpoint, options.model or None, preset=options.preset)
    except (ConfigError, WeightsError, CheckpointError) as error:
        text = str(error).replace("--preset.", "--distil.preset.").replace("--model", "--distil.model")
        raise type(error)(f"distil.teacher = {options.teacher!r}: {text}") from error
    network = network_of(opened) if isinstance(opened, Run) else opened
    where = f"distil.teacher = {options.teacher!r} ({network.title})"
    if segments(opened) != isinstance(config.task, Segment):
        does = ("names one class for a whole image", "names a class for each pixel")
        raise ConfigError(
            f"{where} {does[segments(opened)]}, and the network that is trained {does[not segments(opened)]}; name a "
            "teacher for the same task"
        )
    remarks = (*_check_classes(where, network, class_names), *_check_images(where, network, config))
    model = with_options(network.model, dtype=jnp.dtype(options.dtype), precision="highest")
    variables = jax.tree.map(np.asarray, network.variables)
    return Teacher(options.teacher, model, variables, network.preset, remarks)


def _check_classes(where: str, network: Network, ours: Sequence[str]) -> list[str]:
    theirs, number = network.class_names, network.model.num_classes
    if number != len(ours):
        known = "" if _are_numbers(theirs) else f" ({first_few(theirs, 3)})"
        raise ConfigError(
            f"{where} has {number} classes{known}, and the data set has {len(ours)} ({first_few(ours, 3)}); a teacher "
            "must have the classes of the data set"
        )
    if tuple(theirs) == tuple(ours) or is_imagenet(theirs, ours):
        return []
    if _are_numbers(theirs):
        return [f"nothing names its {number} classes; they are taken for those of the data set, in this order"]
    other = [f"{a} is {b} there" for a, b in zip(ours, theirs, strict=True) if a != b]
    raise ConfigError(
        f"{where} has other classes than the data set, or in another order: {first_few(other, 3)}; name a teacher that "
        "was trained for the classes of the data set, or call them by the same names"
    )


def _are_numbers(names: Sequence[str]) -> bool:
    """Whether they are the numbers of the classes, as where nothing names them."""
    return list(names) == list(map(str, range(len(names))))


def _check_images(where: str, network: Network, config: Config) -> list[str]:
    theirs, ours = network.preset, config.data.preset
    if theirs.channels not in (ours.channels, 3 if ours.channels == 1 else ours.channels):
        raise ConfigError(
            f"{where} sees images of {theirs.channels} channel, and data.channels = {ours.channels}; set "
            f"data.channels = {theirs.channels}, or name a teacher for images of {ours.channels}"
        )
    seen, made_for = config.data.train_sizes, theirs.crop or theirs.resize
    if {*seen} == {made_for}:
        return []
    sizes = " and ".join(map(str, seen))
    return [f"it was made for images of {made_for} pixels, and sees those that are trained on, of {sizes}"]
