"""A start from existing weights: where they come from, how they fit, and which of them checkpoints need not hold."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PyTree

from resnet_jax.config import Config, Group
from resnet_jax.config_files import FILE_NAME
from resnet_jax.errors import CheckpointError, ConfigError
from resnet_jax.files import open_folder
from resnet_jax.survival.digests import by_name, digest_arrays, digest_json
from resnet_jax.tasks.assemble import groups_and_phases
from resnet_jax.tasks.task import Task
from resnet_jax.training.frozen import combine
from resnet_jax.training.state import TrainState, trained_variables
from resnet_jax.weights import load_pretrained

SHOWN = 10  # arrays that do not fit, in an error


@dataclass(frozen=True)
class Beginning:
    """Variables that a run starts from.

    Attributes:
      weights: the text of `config.start.weights`.
      arrays: `params/conv1/kernel` -> the array, for the arrays that fit.
      new: names of the arrays of the last layer that do not fit, and so stay random.
      groups: of parameters. Frozen parameters that come from these weights are in no checkpoint.
    """

    weights: str
    arrays: Mapping[str, np.ndarray]
    new: tuple[str, ...]
    groups: tuple[Group, ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all arrays. All processes must ask for it together."""
        return digest_json(digest_arrays({name: jax.numpy.asarray(array) for name, array in self.arrays.items()}))

    def begin(self, state: TrainState) -> TrainState:
        """The state before the first update, with these variables in place of random ones, also in its averages."""
        variables = self._filled(state.variables)
        state = state.replace(params=variables["params"], batch_stats=variables["batch_stats"])
        if state.ema is None:
            return state
        # A copy, since the step donates its arguments: one array must not be in two places.
        changed = trained_variables(variables, self.groups)
        return state.replace(ema=jax.tree.map(lambda leaf: leaf.copy(), changed))

    def to_save(self, state: TrainState) -> TrainState:
        """The part of a state that a checkpoint holds: None in place of frozen arrays that come from these weights."""
        kept = trained_variables(state.variables, self.groups)
        saved = jax.tree_util.tree_map_with_path(
            lambda path, leaf, moves: leaf if moves is not None or _name(path) not in self.arrays else None,
            *(state.variables, kept),
        )
        return state.replace(params=saved["params"], batch_stats=saved["batch_stats"])

    def restore(self, saved: TrainState, like: TrainState) -> TrainState:
        """The whole state, from the part that a checkpoint held. `like` says where the other arrays are to lie."""
        variables = combine(saved.variables, self._filled(like.variables))
        return saved.replace(params=variables["params"], batch_stats=variables["batch_stats"])

    def check_same(self, memory: Mapping[str, Any], workdir: Any) -> None:
        """Raises a CheckpointError if a run was begun with other weights of this name."""
        if memory.get("start") != self.digest:
            raise CheckpointError(
                f"{workdir} was started from start.weights = {self.weights!r}, and these are not the same weights any "
                "more; its checkpoints lack the frozen parameters. Bring the weights back as they were, or start anew "
                "in another workdir"
            )

    def _filled(self, variables: PyTree[Any]) -> PyTree[Any]:
        def fill(path: Any, leaf: Any) -> Any:
            array = self.arrays.get(_name(path))
            if array is None:
                return leaf
            # Every process has read the whole array, and its devices take their parts.
            return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: array[index])

        return jax.tree_util.tree_map_with_path(fill, variables)


def load_beginning(config: Config, task: Task) -> Beginning | None:
    """The variables that `config.start` names. None if a run starts from random variables.

    Raises:
      ConfigError: the weights do not fit the network, apart from its last layer; lists all arrays that do not fit.
      WeightsError, CheckpointError: they cannot be found, downloaded or read.
    """
    if not config.start.weights:
        return None
    like = by_name(jax.eval_shape(task.init, jax.random.key(0)))
    found = {name: np.asarray(array) for name, array in by_name(_variables(config)).items()}
    head = tuple(f"params/{module}/" for module in task.head)
    new = tuple(
        name for name in like if name.startswith(head) and (name not in found or found[name].shape != like[name].shape)
    )
    body = {name: array for name, array in found.items() if not name.startswith(head) or name in like}
    _check_fit(config, *({name: x for name, x in tree.items() if name not in new} for tree in (like, body)))
    arrays = {name: found[name].astype(leaf.dtype) for name, leaf in like.items() if name not in new}
    return Beginning(config.start.weights, arrays, new, groups_and_phases(config, task)[0])


def load_frozen(config: Config, task: Task) -> Beginning | None:
    """What checkpoints of this run lack. None if they lack nothing; then a run is read without its start."""
    frozen = any(not group.rate for group in groups_and_phases(config, task)[0])
    return load_beginning(config, task) if frozen else None


def _variables(config: Config) -> PyTree[Array]:
    from resnet_jax.run.predict import load_run  # imported here, since it imports this module

    weights = config.start.weights
    if (open_folder(weights) / FILE_NAME).exists():
        return load_run(weights, config.start.checkpoint).state.eval_variables
    variables = load_pretrained(config.model.name, weights)[1]
    return {name: variables[name] for name in ("params", "batch_stats")}


def _check_fit(config: Config, like: Mapping[str, Any], found: Mapping[str, np.ndarray]) -> None:
    lines = [f"{name}: not in the weights" for name in like if name not in found]
    lines += [f"{name}: only in the weights" for name in found if name not in like]
    lines += [
        f"{name}: {found[name].shape} (weights) != {leaf.shape} (network)"
        for name, leaf in like.items()
        if name in found and found[name].shape != leaf.shape
    ]
    if lines:
        shown = lines[:SHOWN] + [f"and {len(lines) - SHOWN} more"] * (len(lines) > SHOWN)
        raise ConfigError(
            f"start.weights = {config.start.weights!r} does not fit {config.model.name}; {len(lines)} arrays differ:"
            + "".join(f"\n  {line}" for line in shown)
            + "\nSet model.name (and data.channels) to those of the weights, or name other weights."
        )


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
