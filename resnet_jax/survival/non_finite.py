"""What happens after a step whose loss or gradient is not finite: stop, skip the update, or roll back."""

import math
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

ROLLBACKS_AT_MOST = 10  # in a run; each further rollback at the same step skips twice as many batches
SKIPPED_AT_MOST = 100  # in a row
DIAGNOSIS = ("worst_layer", "worst_norm")  # entries of a step's metrics of which no means are taken


class Batches(Protocol):
    """Endless batches with a position that can be saved, such as `resnet_jax.data.train_batches` gives."""

    def __next__(self) -> Any: ...
    def get_state(self) -> dict[str, Any]: ...
    def set_state(self, state: dict[str, Any]) -> None: ...


def gradient_norms(grads: PyTree[Array]) -> dict[str, Float[Array, ""]]:
    """L2 norms of gradients. `grad_norm` is that of all; `worst_norm` is the largest norm of one array, where nan
    counts as the largest; `worst_layer` is the index of that array in `layer_names`.
    """
    squares = jnp.stack([jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(grads)])
    worst = jnp.argmax(squares)  # argmax takes the first nan where there is one
    return {
        "grad_norm": jnp.sqrt(jnp.sum(squares)),
        "worst_layer": worst.astype(jnp.float32),
        "worst_norm": jnp.sqrt(squares[worst]),
    }


def layer_names(params: PyTree) -> list[str]:
    """`layer1_0/conv1/kernel`, ... in the order of `gradient_norms`."""
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(params)]


def is_finite(metrics: Mapping[str, Float[Array, ""]]) -> Bool[Array, ""]:
    """Whether loss and gradient are finite, computed in the jitted step."""
    return jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])


def was_finite(metrics: Mapping[str, float]) -> bool:
    """`is_finite` for numbers on the host."""
    return math.isfinite(metrics["loss"]) and math.isfinite(metrics.get("grad_norm", 0.0))


def keep_where(good: Bool[Array, ""], new: PyTree[Array], old: PyTree[Array]) -> PyTree[Array]:
    """`new` where `good`, else `old`. Integers are always `new`: they count steps, and nothing is learned in them."""
    return jax.tree.map(lambda n, o: jnp.where(good, n, o) if jnp.issubdtype(n.dtype, jnp.inexact) else n, new, old)


class SkippingBatches:
    """Batches without those that a rollback leaves out. Its state remembers them, so that a resumed run is the same.

    The batches that are left out are named by steps ("one batch before step 9"), not by the last checkpoint. So the run
    is the one in whose data those batches never were, wherever it was interrupted.
    """

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._step = 0
        self._skips: dict[int, int] = {}

    @property
    def rollbacks(self) -> int:
        """How many rollbacks led to the batches that are skipped."""
        # n rollbacks at one step skip 2**n - 1 batches.
        return sum((count + 1).bit_length() - 1 for count in self._skips.values())

    def skip_before(self, step: int) -> None:
        """Leaves out the batch of `step`. If it is called again for the same step: 3, then 7, ... batches."""
        self._skips[step] = 2 * self._skips.get(step, 0) + 1

    def __next__(self) -> Any:
        self._step += 1
        for _ in range(self._skips.get(self._step, 0)):
            next(self._batches)
        return next(self._batches)

    def get_state(self) -> dict[str, Any]:
        return {"batches": self._batches.get_state(), "step": self._step, "skips": sorted(self._skips.items())}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a saved position. Batches that were asked to be skipped since then are still skipped."""
        self._batches.set_state(state["batches"])
        self._step = state["step"]
        self._skips |= {step: max(count, self._skips.get(step, 0)) for step, count in state["skips"]}
