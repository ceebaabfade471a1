"""One update: forward, backward, optimizer, running statistics, compiled for all devices at once."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Key, PyTree

from resnet_jax.errors import ConfigError
from resnet_jax.models import ResNet
from resnet_jax.training.accumulate import Batch, on_every_device, one_after_the_other
from resnet_jax.training.ema import Average
from resnet_jax.training.loss_scale import next_loss_scale, overflowed
from resnet_jax.training.losses import cross_entropy, in_top_k
from resnet_jax.training.mesh import AXIS, replicated, split_batch
from resnet_jax.training.non_finite import gradient_norms, is_finite, keep_where
from resnet_jax.training.state import TrainState, state_sharding
from resnet_jax.training.zero import gather, spread

Metrics = dict[str, Float[Array, ""]]
Augment = Callable[..., tuple[Float[Array, "N H W C"], Float[Array, "N K"]]]
WHOLE = PartitionSpec()


class TrainStep(Protocol):
    """A jitted `(state, batch) -> (state, metrics)`."""

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]: ...

    def lower(self, state: TrainState, batch: PyTree) -> jax.stages.Lowered:
        """The program for arrays of these shapes and shardings, which need not exist."""


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
    mix_group_size: int = 1,
    accumulate: int = 1,
    shard_optimizer: bool = False,
    average: Average | None = None,
) -> TrainStep:
    """Returns the jitted `(state, batch) -> (state, metrics)`; it donates `state`.

    Args:
      augment: `(key, uint8 images, labels, positions=places in the global batch) -> (normalised float32 images,
        targets (N, K))`, where a target is a distribution over the classes. The key is `step_key`'s, so that nothing
        depends on the number of devices or parts.
      skip_non_finite: where loss or gradient is not finite only the step counts; `skipped` (0 or 1) is reported.
      mix_group_size: consecutive images that `augment` mixes, 0 = all. Where such groups and those of BatchNorm lie
        whole on the devices, these exchange nothing but gradients, statistics and metrics, once. BatchNorm over the
        whole batch exchanges its statistics; for mixing that is not local, the partitioner sees to what is needed.
      accumulate: parts that a device computes one after the other.
      shard_optimizer: the optimizer's state is split over the devices, see `state.state_sharding`.
      average: the rule of the moving averages, for a state that holds them.

    The batch holds `image` (N, H, W, C) uint8 and `label` (N,) int32, split over the devices. The metrics are scalars
    of this batch: `loss`, `top1` (how often the class with the largest target is predicted), what
    `non_finite.gradient_norms` says, and for float16 `loss_scale` and `skipped`.

    Raises:
      ConfigError: from the step, a batch that cannot be computed in so many parts.
    """

    def mean_of(model: ResNet, common: dict[str, Any], batch: Batch) -> dict[str, Any]:
        """Gradients, running statistics and metrics of a part of the batch."""
        key, positions = jax.random.wrap_key_data(common["key"]), batch["position"]
        images, targets = augment(key, batch["image"], batch["label"], positions=positions)

        def loss_of(params: PyTree[Array]) -> tuple[Array, tuple[Array, Array, PyTree[Array]]]:
            variables = {"params": params, "batch_stats": common["batch_stats"]}
            rngs = {"dropout": jax.random.fold_in(key, 1)}
            logits, updates = model.apply(
                variables, images, train=True, positions=positions, mutable=["batch_stats"], rngs=rngs
            )
            loss = jnp.mean(cross_entropy(logits, targets, label_smoothing))
            return loss * common["loss_scale"], (loss, logits, updates.get("batch_stats", {}))

        grads, (loss, logits, batch_stats) = jax.grad(loss_of, has_aux=True)(common["params"])
        grads = jax.tree.map(lambda grad: grad / common["loss_scale"], grads)
        top1 = jnp.mean(in_top_k(logits, jnp.argmax(targets, axis=-1), 1))
        return {"grads": grads, "batch_stats": batch_stats, "metrics": {"loss": loss, "top1": top1}}

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        size, scaling = len(batch["label"]), state.loss_scale
        batch = {**batch, "position": jnp.arange(size)}
        common = {
            "params": state.params,
            "batch_stats": state.batch_stats,
            "key": jax.random.key_data(step_key(jax.random.wrap_key_data(state.key), state.step)),
            "loss_scale": jnp.float32(1) if scaling is None else scaling.scale,
        }
        split = spread(state.params, mesh.size) if shard_optimizer else _everywhere(state.params)
        if is_separable(size, model.bn_group_size, mix_group_size, mesh.size, accumulate):
            net = model if model.bn_group_size else model.clone(bn_axis_name=AXIS)
            compute = one_after_the_other(partial(mean_of, net), accumulate)
            layout = {"batch_stats": _everywhere(state.batch_stats), "metrics": {"loss": WHOLE, "top1": WHOLE}}
            means = on_every_device(compute, mesh, {**layout, "grads": split})(common, batch)
        else:
            means = mean_of(model, common, batch)

        updates, opt_state = optimizer.update(means["grads"], state.opt_state, state.params)
        if shard_optimizer:
            updates = gather(updates, split, mesh)
        new_state = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=means["batch_stats"],
            opt_state=opt_state,
        )
        if average:
            new_state = new_state.replace(ema=average(new_state.step, state.ema, new_state.variables))
        metrics: Metrics = means["metrics"] | gradient_norms(means["grads"])
        good = is_finite(metrics)
        if skip_non_finite or scaling:
            new_state = keep_where(good, new_state, state)
            metrics["skipped"] = 1.0 - good
        if scaling:
            metrics["loss_scale"] = scaling.scale
            if not skip_non_finite:
                metrics["skipped"] = overflowed(scaling, good).astype(jnp.float32)
            new_state = new_state.replace(loss_scale=next_loss_scale(scaling, good))
        state_layout = state_sharding(state, mesh, shard_optimizer=shard_optimizer)
        return jax.lax.with_sharding_constraint(new_state, state_layout), metrics

    in_shardings, out_shardings = (None, split_batch(mesh)), (None, replicated(mesh))
    return jax.jit(train_step, in_shardings=in_shardings, out_shardings=out_shardings, donate_argnums=0)


def _everywhere(tree: PyTree) -> PyTree[PartitionSpec]:
    return jax.tree.map(lambda _: WHOLE, tree)


def is_separable(batch_size: int, bn_group_size: int, mix_group_size: int, devices: int, accumulate: int) -> bool:
    """Whether each device can compute its share by itself, in `accumulate` parts of whole groups of images.

    Raises:
      ConfigError: it cannot, and `accumulate` asks for it.
    """
    if accumulate > 1:
        bn_group_size = bn_group_size or batch_size
    unit = devices * accumulate * math.lcm(bn_group_size or 1, mix_group_size or batch_size)
    if accumulate > 1 and batch_size % unit:
        raise ConfigError(
            f"accumulate = {accumulate}: {batch_size} images are not {devices} device(s) x {accumulate} parts of whole "
            f"groups of {unit // (devices * accumulate)} images that depend on one another (model.bn_group_size, "
            "data.augment.mix_group_size); choose a batch_size, groups and accumulate that fit"
        )
    return batch_size % unit == 0
