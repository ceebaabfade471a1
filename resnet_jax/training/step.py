"""One update: forward pass, backward pass, optimizer, running statistics; compiled for all devices at once."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from resnet_jax.config.groups import Group
from resnet_jax.errors import ConfigError
from resnet_jax.runtime.mesh import AXIS, replicated, split_batch
from resnet_jax.survival.digests import by_name
from resnet_jax.survival.non_finite import gradient_norms, is_finite, keep_where
from resnet_jax.training.accumulate import Batch, on_every_device, one_after_the_other
from resnet_jax.training.divide import Counts, Several, mean_counts, mean_of_several, per_weight
from resnet_jax.training.ema import Average
from resnet_jax.training.frozen import (
    belonging_to,
    combine,
    fixed_modules,
    fixed_norms,
    frozen_names,
    moving_statistics,
    partition,
    trained_of,
)
from resnet_jax.training.loss_scale import next_loss_scale, overflowed
from resnet_jax.training.sparse import Masks, masks_in, share_of_zeros, with_zeros
from resnet_jax.training.split import is_whole, rows_of_devices, split_paths
from resnet_jax.training.state import TrainState, state_sharding, trained_variables
from resnet_jax.training.zero import gather, spread

Metrics = dict[str, Float[Array, ""]]
WHOLE = PartitionSpec()


class Losses(NamedTuple):
    """The result of a loss for a part of a batch of N examples.

    The loss of the batch is `sum(loss) / sum(weight)` over all its parts, and so is each metric. A batch whose weights
    are all 0 has loss and gradient 0.

    Attributes:
      loss: the loss of each example, which is minimised.
      metrics: further values of each example that are logged, by name.
      batch_stats: all running statistics after this part; {} if the network has none.
      weight: how much each example counts, such as the number of its pixels that are not ignored. It must not depend on
        the parameters. None = 1 each.
      several: further losses by name, each with counts of its own, such as of the anchors and proposals that it looks
        at: `(loss, count)`. `sum(loss) / max(1, sum(count))` of each is added to the loss, and logged by its name. No
        gradient passes through counts. There can be no `weight` then.
    """

    loss: Float[Array, " N"]
    metrics: dict[str, Float[Array, " N"]]
    batch_stats: PyTree[Array]
    weight: Float[Array, " N"] | None = None
    several: Several | None = None


Loss = Callable[[PyTree[Array], PyTree[Array], Batch, Key[Array, ""], str | None], Losses]
"""`(params, batch_stats, a part of a batch, key, axis) -> Losses`: everything that a step knows of a task.

The part holds the leaves of the data, and `position` (N,): the examples' places in the whole batch. The key is that of
the step, the same in every part. Draw what belongs to an example from `fold_in(key, its position)`: so nothing depends
on the number of devices or parts. `axis` is the mesh axis over which norms take the statistics of the whole batch; None
= the part has everything that norms need. Where a task splits parameters, the loss is called under `shard_map` over
`mesh.AXIS` with the device's rows of them. Among the parameters are also the arrays of `TrainState.fixed`.
"""


class TrainStep(Protocol):
    """A jitted `(state, batch) -> (state, metrics)`."""

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]: ...

    def lower(self, state: TrainState, batch: PyTree) -> jax.stages.Lowered:
        """The program for arrays of these shapes and shardings, which need not exist."""


def step_key(run_key: Key[Array, ""], step: Int[Array, ""] | int) -> Key[Array, ""]:
    """The key of all random draws of the update that follows `step` others."""
    return jax.random.fold_in(run_key, step)


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    bn_group_size: int = 0,
    mix_group_size: int = 1,
    skip_non_finite: bool = False,
    accumulate: int = 1,
    shard_optimizer: bool = False,
    average: Average | None = None,
    groups: Sequence[Group] = (),
    resting: Sequence[Group] = (),
    restart_at: int = 0,
    split: Sequence[str] = (),
) -> TrainStep:
    """Returns the jitted `(state, batch) -> (state, metrics)`. It donates `state`.

    Args:
      loss: of a part of a batch.
      bn_group_size: consecutive examples that share BatchNorm statistics, 0 = all.
      mix_group_size: consecutive examples that `loss` mixes, 0 = all. Where these groups and those of BatchNorm lie
        whole on the devices, devices exchange only gradients, statistics and metrics, once. BatchNorm over the whole
        batch also exchanges its statistics. For other mixing, XLA's partitioner adds the exchanges that are needed.
      skip_non_finite: if loss or gradient is not finite, only the step counts. `skipped` (0 or 1) is reported.
      accumulate: parts that a device computes one after the other.
      shard_optimizer: the optimizer's state is split over the devices, see `state.state_sharding`.
      average: the rule of the moving averages, for a state that holds them.
      groups: of parameters. Those of rate 0 are frozen: no gradient is computed for them. A norm whose parameters are
        all frozen, with fixed statistics, normalises with its running statistics, which stay as they are.
      resting: groups of rate 0 of the parameters that are frozen in this phase of a run, but not in all phases. The
        state has arrays of the optimizer for them, which stay as they are.
      restart_at: the number of updates after which the optimizer's moments are set to 0, which is where a phase begins;
        0 = never.
      split: regular expressions of the parameters of which each device holds some rows, see `split.py`. `loss` gets the
        device's rows, and their gradients are not exchanged.

    The batch is a dictionary of arrays of N rows, split over the devices. The metrics are scalars of this batch:
    `loss`, those of `Losses.metrics`, those of `non_finite.gradient_norms`, and for float16 `loss_scale` and `skipped`.
    If the losses have weights, `empty` says whether nothing in the batch counted (0 or 1).

    Raises:
      ConfigError: from the step: the batch cannot be computed in that many parts.
    """

    now = (*resting, *groups)

    def found_by(common: dict[str, Any], params: PyTree[Array], batch: Batch, axis: str | None) -> Losses:
        whole, key = combine(params, common["frozen"]), jax.random.wrap_key_data(common["key"])
        with fixed_norms(fixed_modules(whole, now)):
            return loss({**whole, **common["fixed"]}, common["batch_stats"], batch, key, axis)

    def mean_of(
        paths: frozenset[str], axis: str | None, counts: Counts, common: dict[str, Any], batch: Batch
    ) -> dict[str, Any]:
        """Gradients, running statistics and metrics of a part of the batch, as means over its examples."""

        def loss_of(params: PyTree[Array]) -> tuple[Array, tuple[Losses, dict[str, Array]]]:
            found = found_by(common, params, batch, axis)
            several = mean_of_several(found.several, common.get("counts") or counts(found.several), common["size"])
            total = jnp.mean(found.loss) + sum(several.values())
            return total * common["loss_scale"], (found, {"loss": total, **several})

        grads, (found, losses) = jax.grad(loss_of, has_aux=True)(common["params"])
        grads = jax.tree.map(lambda grad: grad / common["loss_scale"], grads)
        # A weight of None stays None: JAX takes it for a branch without leaves.
        metrics, weight = jax.tree.map(jnp.mean, ({**losses, **found.metrics}, found.weight))
        moves = moving_statistics(found.batch_stats, combine(common["params"], common["frozen"]), now)
        moved, _ = partition(found.batch_stats, moves)
        shared, own = partition(grads, is_whole(grads, paths))
        return {"grads": shared, "own": own, "batch_stats": moved, "metrics": metrics, "weight": weight}

    def share_of(paths: frozenset[str], axis: str | None, common: dict[str, Any], batch: Batch) -> dict[str, Any]:
        """The same of what a device has, in parts. The counts of several losses are exchanged before they divide: where
        there are parts, in a pass through all of them that computes nothing else."""
        over_devices = lambda counts: jax.lax.pmean(counts, AXIS)
        if accumulate > 1:
            count = lambda common, part: mean_counts(found_by(common, common["params"], part, axis).several)
            common = {**common, "counts": over_devices(one_after_the_other(count, accumulate)(common, batch))}
        counts = lambda several: over_devices(mean_counts(several))
        return one_after_the_other(partial(mean_of, paths, axis, counts), accumulate)(common, batch)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        size, scaling = len(jax.tree.leaves(batch)[0]), state.loss_scale
        if restart_at:
            state = state.replace(opt_state=_restarted_if(state.step == restart_at, state.opt_state))
        batch = {**batch, "position": jnp.arange(size)}
        params, frozen = partition(state.params, trained_of(state.params, now))
        common = {
            "params": params,
            "frozen": frozen,
            "fixed": state.fixed or {},
            "batch_stats": state.batch_stats,
            "key": jax.random.key_data(step_key(jax.random.wrap_key_data(state.key), state.step)),
            "loss_scale": jnp.float32(1) if scaling is None else scaling.scale,
            "size": jnp.float32(size),
        }
        paths = split_paths(state.params, split, mesh.size)
        shared, _ = partition(params, is_whole(params, paths))
        spread_out = spread(shared, mesh.size) if shard_optimizer else _everywhere(shared)
        if is_separable(size, bn_group_size, mix_group_size, mesh.size, accumulate):
            compute = partial(share_of, paths, None if bn_group_size else AXIS)
            layout = {"batch_stats": WHOLE, "metrics": WHOLE, "weight": WHOLE, "grads": spread_out}
            layout["own"] = PartitionSpec(AXIS)
            means = on_every_device(compute, mesh, layout, rows_of_devices(common, paths))(common, batch)
        elif paths:
            raise ConfigError(
                f"a batch of {size} examples cannot be shared by {mesh.size} device(s), as parameters split over them "
                "need; choose a batch_size, model.bn_group_size and data.augment.mix_group_size that fit"
            )
        else:
            means = mean_of(paths, None, mean_counts, common, batch)
        means["grads"] = combine(means["grads"], means.pop("own"))
        if means["weight"] is not None:
            means |= per_weight({name: means[name] for name in ("grads", "metrics")}, means["weight"])

        waits = belonging_to(state.opt_state, frozen_names(state.params, resting), frozenset(by_name(state.params)))
        waiting, in_use = partition(state.opt_state, waits)
        updates, opt_state = optimizer.update(means["grads"], in_use, params)
        if shard_optimizer:
            updates, own = partition(updates, is_whole(updates, paths))
            updates = combine(gather(updates, spread_out, mesh), own)
        new_state = state.replace(
            step=state.step + 1,
            params=combine(optax.apply_updates(params, updates), frozen),
            batch_stats=combine(means["batch_stats"], state.batch_stats),
            opt_state=combine(opt_state, waiting),
        )
        masks = masks_in(new_state.opt_state)
        if average:
            changed = trained_variables(new_state.variables, groups)
            due = jnp.asarray(state.ema_due) > 0
            ema = average(new_state.step, state.ema, changed, due)
            if masks is not None:
                ema = {**ema, "params": with_zeros(masks, ema["params"])}
            new_state = new_state.replace(ema=ema)
        metrics: Metrics = means["metrics"] | gradient_norms(means["grads"])
        if means["weight"] is not None:
            metrics["empty"] = jnp.float32(means["weight"] <= 0)
        if masks is not None:
            metrics["sparsity"] = share_of_zeros(masks)
        good = is_finite(metrics)
        if skip_non_finite or scaling:
            new_state = keep_where(good, new_state, state)
            metrics["skipped"] = 1.0 - good
            if average:  # a copy that was to follow a skipped update follows the next one that is not
                due = ~good & (due | average.copies(new_state.step))
                new_state = new_state.replace(ema_due=due.astype(jnp.float32))
        if scaling:
            metrics["loss_scale"] = scaling.scale
            if not skip_non_finite:
                metrics["skipped"] = overflowed(scaling, good).astype(jnp.float32)
            new_state = new_state.replace(loss_scale=next_loss_scale(scaling, good))
        state_layout = state_sharding(state, mesh, shard_optimizer=shard_optimizer, split=split)
        return jax.lax.with_sharding_constraint(new_state, state_layout), metrics

    in_shardings, out_shardings = (None, split_batch(mesh)), (None, replicated(mesh))
    return jax.jit(train_step, in_shardings=in_shardings, out_shardings=out_shardings, donate_argnums=0)


def _restarted_if(begins: Bool[Array, ""], opt_state: PyTree[Array]) -> PyTree[Array]:
    """The optimizer's state with moments of 0, and Adam's count of them. Masks and the place in the schedule stay."""

    def restart(part: Any) -> Any:
        return part if keeps(part) else jax.tree.map(lambda leaf: jnp.where(begins, 0, leaf), part)

    def keeps(part: Any) -> bool:
        return isinstance(part, (optax.ScaleByScheduleState, Masks))

    return jax.tree.map(restart, opt_state, is_leaf=keeps)


def _everywhere(tree: PyTree) -> PyTree[PartitionSpec]:
    return jax.tree.map(lambda _: WHOLE, tree)


def is_separable(batch_size: int, bn_group_size: int, mix_group_size: int, devices: int, accumulate: int) -> bool:
    """Whether each device can compute its share alone, in `accumulate` parts of whole groups of images.

    Raises:
      ConfigError: it cannot, and `accumulate` asks for parts.
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
