"""A start from existing weights: where they come from, how they fit, and which of them checkpoints need not hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, PyTree

from resnet_jax.compress.quantize import in_float32
from resnet_jax.compress.quantize.trained import GRIDS
from resnet_jax.config import Config, Group
from resnet_jax.config_files import FILE_NAME
from resnet_jax.errors import CheckpointError, WeightsError
from resnet_jax.files import open_folder
from resnet_jax.models.create import backbone_of
from resnet_jax.run.fitted import below_the_head, check_fit, new_head, with_channels_of
from resnet_jax.run.inflated import inflated_if, time_of
from resnet_jax.survival.digests import by_name, digest_arrays, digest_json
from resnet_jax.tasks.assemble import freezes, groups_and_phases
from resnet_jax.tasks.task import Task
from resnet_jax.training.frozen import combine
from resnet_jax.training.state import TrainState, trained_variables
from resnet_jax.weights import WEIGHT_SETS, find_weights, load_pretrained
from resnet_jax.weights.families import RESNET, family_in
from resnet_jax.weights.files import read_state_dict

_PARTS = ("params", "batch_stats")


@dataclass(frozen=True)
class Beginning:
    """Variables that a run starts from.

    Attributes:
      weights: the text of `config.start.weights`.
      arrays: `params/conv1/kernel` -> the array, for the arrays that fit.
      new: names of the arrays that are not taken from the weights, and so stay random.
      groups: of parameters. Frozen parameters that come from these weights are in no checkpoint.
      remarks: what is not as in the weights, or may not be meant, in a sentence each.
      made: further arrays, which were computed from these. Checkpoints hold them.
    """

    weights: str
    arrays: Mapping[str, np.ndarray]
    new: tuple[str, ...]
    groups: tuple[Group, ...]
    remarks: tuple[str, ...] = ()
    made: Mapping[str, np.ndarray] = field(default_factory=dict)

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
            array = self.arrays.get(_name(path), self.made.get(_name(path)))
            if array is None:
                return leaf
            # Every process has read the whole array, and its devices take their parts.
            return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: array[index])

        return jax.tree_util.tree_map_with_path(fill, variables)


def load_beginning(config: Config, task: Task, class_names: Sequence[str]) -> Beginning | None:
    """The variables that `config.start` names. None if a run starts from random variables.

    Args:
      class_names: of the data set.

    Raises:
      ConfigError: the weights do not fit the network, apart from its last layer and from the channels of its first
        convolution; lists all arrays that do not fit. Weights for classification need only fit the backbone of a
        network for segmentation.
      WeightsError, CheckpointError: they cannot be found, downloaded or read, or are for neither the channels of the
        images nor RGB.
    """
    if not config.start.weights:
        return None
    wanted = by_name(jax.eval_shape(task.init, jax.random.key(0)))
    grids = tuple(name for name in wanted if name.startswith(f"params/{GRIDS}/"))
    like = {name: leaf for name, leaf in wanted.items() if name not in grids}
    weights = _read(config)
    lifted, above, lifting = below_the_head(like, inflated_if(config, like, weights.arrays))
    found, adapting = with_channels_of(like, lifted)
    of_head = lambda name: f"{name}/".startswith(tuple(f"{part}/{head}/" for part in _PARTS for head in task.head))
    rest = {name: leaf for name, leaf in like.items() if name not in above}
    last, remark = new_head(
        config.start.head, tuple(filter(of_head, rest)), rest, found, weights.class_names, class_names
    )
    new = above + last
    body = {name: array for name, array in found.items() if not of_head(name) or name in like}
    trees = ({name: x for name, x in tree.items() if name not in new} for tree in (like, body))
    check_fit(config, weights.model, *trees)
    arrays = {name: found[name].astype(leaf.dtype) for name, leaf in like.items() if name not in new}
    groups, _ = groups_and_phases(config, task)
    return Beginning(
        config.start.weights, arrays, new + grids, groups, tuple(filter(None, (*lifting, *adapting, remark)))
    )


def load_frozen(config: Config, task: Task, class_names: Sequence[str]) -> Beginning | None:
    """What checkpoints of this run lack. None if they lack nothing; then a run is read without its start."""
    params = jax.eval_shape(task.init, jax.random.key(0))["params"]
    return load_beginning(config, task, class_names) if freezes(params, groups_and_phases(config, task)[0]) else None


class _Weights(NamedTuple):
    """What `start.weights` names.

    Attributes:
      arrays: by name, with their own head.
      model: the name of the network, where the weights say it.
      class_names: of the head; None = nothing says them.
    """

    arrays: dict[str, np.ndarray]
    model: str
    class_names: tuple[str, ...] | None


def _read(config: Config) -> _Weights:
    from resnet_jax.run.predict import load_run  # imported here, since it imports this module

    weights, name = config.start.weights, config.model.name
    if (open_folder(weights) / FILE_NAME).exists():
        run = load_run(weights, config.start.checkpoint)
        variables = _folded_if(config, run.model, run.state.eval_variables)
        return _Weights(_arrays(variables), run.config.model.name, run.class_names)
    try:
        network = _network_of(name, weights)
        model, variables = load_pretrained(network, weights, **time_of(config))
    except WeightsError as error:
        raise WeightsError(f"start.weights = {weights!r} for model.name = {name!r}: {error}") from error
    sets = (known for known in WEIGHT_SETS if known.model == network and weights in (known.name, "DEFAULT"))
    published = next(sets, None) or next((known for known in WEIGHT_SETS if Path(weights).name == known.file), None)
    variables = {part: variables[part] for part in _PARTS}
    return _Weights(_arrays(_folded_if(config, model, variables)), "", published.class_names if published else None)


def _folded_if(config: Config, model: Any, variables: PyTree[Array]) -> PyTree[Array]:
    """The variables, folded for a run that is trained for integers."""
    return in_float32(model, variables).variables if config.quantize.images else variables


def _network_of(name: str, weights: str) -> str:
    """The network that `start.weights` are those of: the one that is trained, or its backbone, which was trained to
    classify."""
    backbone = backbone_of(name)
    if backbone is None:
        return name
    if weights == "DEFAULT" or any(weights == known.name for known in WEIGHT_SETS):
        own = any(known.model == name and weights in (known.name, "DEFAULT") for known in WEIGHT_SETS)
        return name if own else backbone
    return backbone if family_in(read_state_dict(find_weights(name, weights))) is RESNET else name


def _arrays(variables: PyTree[Array]) -> dict[str, np.ndarray]:
    return {name: np.asarray(array) for name, array in by_name(variables).items()}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
