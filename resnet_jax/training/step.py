"""One update: forward, backward, optimizer, running statistics, compiled for all devices at once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, PyTree, UInt8

from resnet_jax.models import ResNet
from resnet_jax.training.losses import cross_entropy, in_top_k
from resnet_jax.training.mesh import replicated, split_batch
from resnet_jax.training.non_finite import is_finite, keep_where, worst_layer
from resnet_jax.training.state import TrainState

Batch = dict[str, Array]
Metrics = dict[str, Float[Array, ""]]
Augment = Callable[
    [Array, UInt8[Array, "N H W C"], Int[Array, " N"]], tuple[Float[Array, "N H W C"], Float[Array, "N K"]]
]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def step_key(run_key: Key[Array, ""], step: Int[Array, ""] | int) -> Key[Array, ""]:
    """The key of all randomness of the update after `step` others."""
    return jax.random.fold_in(run_key, step)


def make_train_step(
    model: ResNet,
    optimizer: optax.GradientTransformation,
    augment: Augment,
    mesh: Mesh,
    *,
    label_smoothing: float = 0.0,
    skip_non_finite: bool = False,
) -> TrainStep:
    """Returns the jitted `(state, batch) -> (state, metrics)`; it donates `state`.

    Args:
      augment: `(key, uint8 images, labels) -> (normalised float32 images, targets (N, K))`, where a target is a
        distribution over the classes. The key is `step_key`'s, so that neither depends on the number of devices.
      skip_non_finite: where loss or gradient is not finite only the step counts; `skipped` (0 or 1) is reported.

    The batch holds `image` (N, H, W, C) uint8 and `label` (N,) int32, split over the devices. The metrics are scalars
    of this batch: `loss`, `top1` (how often the class with the largest target is predicted), `grad_norm` (L2 over all
    parameters), and what `non_finite.worst_layer` says.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = step_key(jax.random.wrap_key_data(state.key), state.step)
        images, targets = augment(key, batch["image"], batch["label"])

        def loss_of(params: PyTree[Array]) -> tuple[Array, tuple[Array, PyTree[Array]]]:
            variables = {"params": params, "batch_stats": state.batch_stats}
            rngs = {"dropout": jax.random.fold_in(key, 1)}
            logits, updates = model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)
            loss = jnp.mean(cross_entropy(logits, targets, label_smoothing))
            return loss, (logits, updates.get("batch_stats", {}))

        (loss, (logits, batch_stats)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        metrics = {
            "loss": loss,
            "top1": jnp.mean(in_top_k(logits, jnp.argmax(targets, axis=-1), 1)),
            "grad_norm": optax.tree.norm(grads),
            **worst_layer(grads),
        }
        new_state = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        if skip_non_finite:
            good = is_finite(metrics)
            new_state = keep_where(good, new_state, state)
            metrics["skipped"] = 1.0 - good
        return new_state, metrics

    return jax.jit(
        train_step,
        in_shardings=(replicated(mesh), split_batch(mesh)),
        out_shardings=replicated(mesh),
        donate_argnums=0,
    )
