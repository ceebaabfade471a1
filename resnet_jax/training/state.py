"""Everything that training changes, as one pytree: the content of a checkpoint."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int, Key, PyTree, UInt32

from resnet_jax.config.groups import Group
from resnet_jax.training.frozen import combine, moving_statistics, partition, trained_of
from resnet_jax.training.loss_scale import LossScale, first_loss_scale
from resnet_jax.training.split import is_whole, rows_of_devices, split_paths
from resnet_jax.training.zero import spread


class TrainState(struct.PyTreeNode):
    """The state of a run after `step` updates.

    Attributes:
      ema: the moving averages of `variables`, with None in place of frozen parameters; None if no averages are kept.
      loss_scale: None except for float16.
      ema_due: 1 if the averages were to become a copy after an update that was skipped, and did not yet; None if no
        averages are kept.
      fixed: arrays that the loss needs besides the parameters, such as a teacher's, by names that no parameter has.
        Nothing changes them, and no checkpoint holds them.
    """

    step: Int[Array, ""]
    params: PyTree[Array]
    batch_stats: PyTree[Array]
    opt_state: optax.OptState
    key: UInt32[Array, " words"]  # raw words, so that every checkpoint format can hold it; constant in a run
    # The default is None, not an empty tree: so checkpoints from before these fields still have the structure of a
    # state.
    ema: dict[str, PyTree[Array]] | None = None
    loss_scale: LossScale | None = None
    ema_due: Float[Array, ""] | None = None
    fixed: dict[str, PyTree[Array]] | None = None

    @property
    def variables(self) -> dict[str, PyTree[Array]]:
        """The variables for `model.apply`, as training has them."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def eval_variables(self) -> dict[str, PyTree[Array]]:
        """The variables for evaluation and use after training: the moving averages, or `variables` if none are kept."""
        return combine(self.ema, self.variables) if self.ema else self.variables


def split_key(key: Array) -> tuple[Array, Array]:
    """The key of the initial parameters, and the key of all later random draws: `TrainState.key`, unwrapped."""
    init_key, run_key = jax.random.split(key)
    return init_key, run_key


class InitState(Protocol):
    """A jitted function of `jax.random.key(seed)`. The key decides the parameters and all later random draws."""

    def __call__(self, key: Array) -> TrainState: ...

    def eval_shape(self, key: Array) -> TrainState:
        """Shapes, dtypes and shardings, without computing anything."""


Init = Callable[[Key[Array, ""]], dict[str, PyTree[Array]]]
"""`key -> {"params", "batch_stats"}`; a network may have no statistics."""


def new_state(
    variables: dict[str, PyTree[Array]],
    optimizer: optax.GradientTransformation,
    run_key: Key[Array, ""],
    *,
    keep_ema: bool = False,
    scale_loss: bool = False,
    groups: Sequence[Group] = (),
) -> TrainState:
    """The state before the first update.

    Args:
      run_key: of all later random draws.
      keep_ema: keep moving averages of parameters and statistics.
      scale_loss: scale the loss dynamically, as float16 needs it.
      groups: of parameters. Those of rate 0 have no optimizer state and no averages.
    """
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(partition(variables["params"], trained_of(variables["params"], groups))[0]),
        key=jax.random.key_data(run_key),
        loss_scale=first_loss_scale() if scale_loss else None,
    )
    if not keep_ema:
        return state
    return state.replace(ema=trained_variables(state.variables, groups), ema_due=jnp.float32(0))


def trained_variables(variables: dict[str, PyTree[Array]], groups: Sequence[Group]) -> dict[str, PyTree[Array]]:
    """The variables that an update changes: trained parameters and moving statistics; None in place of the rest."""
    params = variables["params"]
    moves = moving_statistics(variables["batch_stats"], params, groups)
    return {
        "params": partition(params, trained_of(params, groups))[0],
        "batch_stats": partition(variables["batch_stats"], moves)[0],
    }


def make_init_state(
    init: Init,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    keep_ema: bool = False,
    scale_loss: bool = False,
    shard_optimizer: bool = False,
    groups: Sequence[Group] = (),
    split: Sequence[str] = (),
) -> InitState:
    """Returns the jitted function that makes the state before the first update, each array where it is to lie.

    Args:
      init: makes the variables.
      keep_ema, scale_loss, groups: see `new_state`.
      shard_optimizer, split: see `state_sharding`.
    """

    def init_state(key: Array) -> TrainState:
        init_key, run_key = split_key(key)
        options: dict[str, Any] = {"keep_ema": keep_ema, "scale_loss": scale_loss, "groups": groups}
        return new_state(init(init_key), optimizer, run_key, **options)

    like = jax.eval_shape(init_state, jax.random.key(0))
    return jax.jit(init_state, out_shardings=state_sharding(like, mesh, shard_optimizer=shard_optimizer, split=split))


def state_sharding(
    state: TrainState, mesh: Mesh, *, shard_optimizer: bool, split: Sequence[str] = ()
) -> PyTree[NamedSharding]:
    """Where each array of a state lies: on every device, except that the optimizer's are `spread` if asked for.

    Args:
      split: regular expressions of the parameters whose rows are split over the devices. The arrays that are kept for
        these parameters are split too (`split.py`).
    """
    paths = split_paths(state.params, split, mesh.size)
    layout = rows_of_devices(state, paths)
    if shard_optimizer:
        apart = spread(state.opt_state, mesh.size)
        whole = is_whole(state.opt_state, paths)
        layout = layout.replace(opt_state=jax.tree.map(lambda w, a, b: a if w else b, whole, apart, layout.opt_state))
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), layout)
