"""Turns a config into the functions that train it, for any devices and without its data."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import PyTree

from resnet_jax.compress.quantize.trained import GRIDS, fake_quantized_network
from resnet_jax.config import Config, Group, OptimConfig
from resnet_jax.data.fills import at_largest
from resnet_jax.errors import ConfigError
from resnet_jax.models import create_model
from resnet_jax.runtime.mesh import check_batch_size, split_batch
from resnet_jax.tasks.task import Task
from resnet_jax.training.ema import Average, scaled_decay
from resnet_jax.training.frozen import frozen_names
from resnet_jax.training.levels import Phase, resolve
from resnet_jax.training.optim import Plan, make_optimizer, plan_steps
from resnet_jax.training.state import InitState, make_init_state
from resnet_jax.training.step import TrainStep, make_train_step
from resnet_jax.training.zero import on_whole

log = logging.getLogger("resnet_jax")


@dataclass(frozen=True)
class Training:
    """The functions that train a config.

    Attributes:
      groups: of parameters; those of rate 0 are never trained.
      phases: the phases of the run, each with its step. Most runs have one phase.
      batch: shapes of a global batch, and how the batch is split over the devices. Where training sees images of
        several sizes, those of the largest.
    """

    plan: Plan
    init_state: InitState
    groups: tuple[Group, ...]
    phases: tuple[tuple[Phase, TrainStep], ...]
    batch: dict[str, jax.ShapeDtypeStruct]

    @property
    def train_step(self) -> TrainStep:
        """The step of the last phase."""
        return self.phases[-1][1]

    def lower_step(self) -> jax.stages.Lowered:
        """The step, ready to be compiled, without data or memory for its state."""
        return self.train_step.lower(self.init_state.eval_shape(jax.random.key(0)), self.batch)


def compute_dtype(config: Config) -> jnp.dtype:
    """The dtype of activations and convolutions."""
    return jnp.dtype(jnp.float32 if config.model.dtype == "tf32" else config.model.dtype)


def build_model(config: Config) -> Any:
    """The network that a config describes. In quantisation-aware training it is `FakeQuantized`.

    Raises:
      ConfigError: the number of classes is left to the data set, see `table.settled`.
    """
    options = config.model
    if options.num_classes is None:
        raise ConfigError(
            "model.num_classes = None stands for the number of classes of the training set, which is not read here; "
            "set model.num_classes to that number"
        )
    names = ("widths", "stage_sizes", "output_stride", "time", "block", "shortcut", "norm", "weight_init", "antialias")
    parts: dict[str, Any] = {name: getattr(options, name) for name in names}
    model = create_model(
        options.name,
        **{name: value for name, value in parts.items() if value not in (None, ())},
        **config.task.head(options.num_classes, config.data.image_size),
        time_padding=options.time_padding,
        width_multiplier=options.width_multiplier,
        zero_init_residual=options.zero_init_residual,
        bn_group_size=options.bn_group_size,
        stochastic_depth=options.stochastic_depth,
        remat=options.remat,
        dtype=compute_dtype(config),
        precision=None if options.dtype == "tf32" else "highest",
    )
    return fake_quantized_network(model, config.quantize) if config.quantize.images else model


def optimized(config: Config) -> OptimConfig:
    """The optimisation of a config, with the groups of the steps of its grids, if it has any: without weight decay, and
    zero points stay as they were calibrated."""
    if not config.quantize.images:
        return config.optim
    learn = config.quantize.steps == "learned"
    scales = Group(pattern=f"^{GRIDS}/.*/scale$", rate=float(learn), decay=0.0 if learn else None)
    zero_points = Group(pattern=f"^{GRIDS}/.*/zero_point$", rate=0.0)
    return replace(config.optim, groups=(*config.optim.groups, scales, zero_points))


def assemble(config: Config, task: Task, mesh: Mesh, *, num_images: int) -> Training:
    """The plan, the first state and the step of a config.

    Args:
      num_images: size of the training set.
    Raises:
      ConfigError: `optim.groups` or `optim.level` must be a mistake, or the devices of `mesh` cannot share the batch in
        the parts that `accumulate` asks for.
    """
    optim = optimized(config)
    check_batch_size(config.batch_size, config.model.bn_group_size, mesh.size, config.accumulate)
    plan = plan_steps(config, num_images)
    groups, phases = groups_and_phases(config, task, plan.steps_per_epoch)
    gathered = {"on_whole": on_whole(mesh)} if optim.shard_state else {}
    optimizer = make_optimizer(replace(optim, groups=groups), plan.schedule, plan.ramp, **gathered)
    if plan.warmup == plan.total:
        log.warning(
            "optim.warmup_epochs = %g, and the run has %g epochs: the learning rate only rises, and the schedule that "
            "follows the warm-up never begins. Set it lower, or train longer",
            *(optim.warmup_epochs, config.epochs),
        )
    if plan.steps_per_epoch < 1:
        log.warning(
            "batch_size = %d, and the training set has %d images: every step sees some of them more than once. "
            "Set it lower",
            *(config.batch_size, num_images),
        )
    if optim.ema_decay and plan.warmup < plan.total <= optim.ema_every_steps:
        log.warning(
            "optim.ema_every_steps = %d, and the run has %d steps: the average, which is evaluated, stays as it is "
            "after step %d. Set it lower",
            *(optim.ema_every_steps, plan.total, max(plan.warmup, 1)),
        )
    make_step = partial(
        make_train_step,
        task.loss,
        optimizer,
        mesh,
        bn_group_size=config.model.bn_group_size,
        skip_non_finite=config.on_non_finite == "skip",
        mix_group_size=_together(config.mix_group_size, task.group_size),
        accumulate=config.accumulate,
        shard_optimizer=optim.shard_state,
        groups=groups,
        split=task.split,
        average=Average(scaled_decay(config), optim.ema_every_steps, plan.warmup) if optim.ema_decay else None,
    )
    sharding = split_batch(mesh)
    batch = {
        name: jax.ShapeDtypeStruct((config.batch_size, *shape), dtype, sharding=sharding)
        for name, (shape, dtype) in at_largest(task.fills[0], config.data).leaves.items()
    }
    steps = tuple((phase, make_step(resting=phase.resting, restart_at=phase.start)) for phase in phases)
    return Training(plan, init_state_of(config, task, mesh), groups, steps, batch)


def freezes(params: PyTree[Any], groups: Sequence[Group]) -> bool:
    """Whether parameters are frozen that weights may bring. The steps of grids may be frozen too, but checkpoints hold
    them."""
    return any(not name.startswith(f"{GRIDS}/") for name in frozen_names(params, groups))


def _together(*sizes: int) -> int:
    """The consecutive examples that depend on one another, for several reasons; 0 = all."""
    return math.lcm(*sizes) if all(sizes) else 0


def groups_and_phases(
    config: Config, task: Task, steps_per_epoch: Fraction = Fraction(1)
) -> tuple[tuple[Group, ...], tuple[Phase, ...]]:
    """The groups of parameters of a run, and its phases. Raises as `levels.resolve`."""
    params = jax.eval_shape(task.init, jax.random.key(0))["params"]
    groups, phases = resolve(optimized(config), params, task.head, steps_per_epoch)
    return (*groups, *(Group(pattern=pattern, rate=0.0) for pattern in task.fixed)), phases


def init_state_of(config: Config, task: Task, mesh: Mesh) -> InitState:
    """The function that makes the state before the first update, or tells its shapes. It needs no batch size."""
    groups, _ = groups_and_phases(config, task)
    return make_init_state(
        task.init,
        # Neither schedule nor ramp changes the state.
        make_optimizer(replace(config.optim, groups=groups), optax.constant_schedule(0.0)),
        mesh,
        keep_ema=bool(config.optim.ema_decay),
        scale_loss=config.model.dtype == "float16",
        shard_optimizer=config.optim.shard_state,
        groups=groups,
        split=task.split,
    )
