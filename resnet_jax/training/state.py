"""Everything that training changes, as one pytree: what a checkpoint holds."""

from typing import Protocol

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import NamedSharding
from jaxtyping import Array, Int, PyTree, UInt32

from resnet_jax.models import ResNet


class TrainState(struct.PyTreeNode):
    """The state of a run after `step` updates."""

    step: Int[Array, ""]
    params: PyTree[Array]
    batch_stats: PyTree[Array]
    opt_state: optax.OptState
    key: UInt32[Array, " words"]  # raw words, so that every checkpoint format can hold it; constant in a run

    @property
    def variables(self) -> dict[str, PyTree[Array]]:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def split_key(key: Array) -> tuple[Array, Array]:
    """The key of the initial parameters, and the one of all randomness of later steps: `TrainState.key`, unwrapped."""
    init_key, run_key = jax.random.split(key)
    return init_key, run_key


class InitState(Protocol):
    """A jitted function of `jax.random.key(seed)`, which decides the parameters and all randomness of later steps."""

    def __call__(self, key: Array) -> TrainState: ...

    def eval_shape(self, key: Array) -> TrainState:
        """Shapes, dtypes and shardings, without computing anything."""


def make_init_state(
    model: ResNet, optimizer: optax.GradientTransformation, *, channels: int, sharding: NamedSharding
) -> InitState:
    """Returns the jitted function that makes the state before the first update, born with `sharding`.

    Args:
      channels: of the images.
    """

    def init_state(key: Array) -> TrainState:
        init_key, run_key = split_key(key)
        variables = model.init(init_key, jnp.zeros((1, 64, 64, channels)), train=False)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables.get("batch_stats", {}),  # a network may have none
            opt_state=optimizer.init(variables["params"]),
            key=jax.random.key_data(run_key),
        )

    return jax.jit(init_state, out_shardings=sharding)
