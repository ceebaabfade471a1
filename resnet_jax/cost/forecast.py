"""What a training step will take: memory, arithmetic, communication. It is compiled and not run; no data are read."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from resnet_jax.config import Config, Group
from resnet_jax.cost.aot import Compiled, compile_ahead
from resnet_jax.cost.collectives import Collective, read_collectives
from resnet_jax.cost.count import axes_of, count_macs, count_macs_of
from resnet_jax.cost.peaks import training_flops
from resnet_jax.cost.programs import IMAGES
from resnet_jax.cost.targets import Target
from resnet_jax.data.fills import at_largest
from resnet_jax.models import ResNet, variable_shapes
from resnet_jax.models.forms import forms_of
from resnet_jax.runtime.mesh import check_batch_size, make_mesh
from resnet_jax.tasks.assemble import assemble, build_model, groups_and_phases
from resnet_jax.tasks.table import task_of
from resnet_jax.training.frozen import combine, fixed_modules, fixed_norms, partition, trained_of

CompileStep = Callable[..., Compiled]
TRAIN_STEP = "resnet_jax.cost.programs:train_step"


@dataclass(frozen=True)
class Forecast:
    """The cost of one update. Bytes are those of one device, as XLA for that kind of device lays them out.

    Attributes:
      state_bytes: parameters, statistics, the optimizer's state. The step updates them in place.
      batch_bytes: a device's share of the images and labels.
      temporary_bytes: activations, gradients and scratch.
      kept_bytes: what the forward pass of a part keeps for the backward pass. JAX counts it before any compiler.
      flops: of a device: forward and backward pass, from the convolutions and matrix products of the network. It is
        three times the forward's where everything is trained, and else counted in the gradient. What `remat` computes
        again is not counted.
      target: the devices for which the step was only compiled; None = devices of this machine.
      hbm_bytes: that a device reads from and writes to its memory; None where they are not counted, as for CPUs.
    """

    config: Config
    platform: str
    devices: int
    state_bytes: int
    batch_bytes: int
    temporary_bytes: int
    kept_bytes: int
    flops: int
    collectives: tuple[Collective, ...]
    target: Target | None = None
    hbm_bytes: int | None = None

    @property
    def peak_bytes(self) -> int:
        return self.state_bytes + self.batch_bytes + self.temporary_bytes

    @property
    def fits(self) -> bool:
        """Whether the step fits into a device's memory, if that memory is known."""
        return self.target is None or self.peak_bytes <= self.target.chip.memory

    @property
    def wire_bytes(self) -> float:
        """The bytes that each device sends in a step."""
        return sum(collective.wire_bytes for collective in self.collectives)


def some_devices(count: int) -> Sequence[jax.Device]:
    """`count` devices of this machine, or virtual devices of its CPU. Call it before anything else of JAX.

    Raises:
      RuntimeError: JAX was used before.
    """
    jax.config.update("jax_num_cpu_devices", count)
    real = jax.devices()
    return (real if len(real) >= count else jax.devices("cpu"))[:count]


def forecast(config: Config, devices: Sequence[jax.Device]) -> Forecast:
    """Compiles the step of `config` at full size for `devices`, which may take minutes.

    Raises:
      ConfigError: the devices cannot share the batch.
    """
    model = build_model(config)
    training = assemble(config, task_of(config), make_mesh(devices), num_images=IMAGES)
    # A program that is not run need not be quick: its layout and its collectives do not depend on this. Scheduled for
    # speed, as usual on a CPU, it would take more memory with rematerialisation than without.
    options: dict[str, Any] = {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
        "xla_cpu_enable_concurrency_optimized_scheduler": False,
    }
    on_cpu = devices[0].platform == "cpu"
    compiled: Any = training.lower_step().compile(compiler_options=options if on_cpu else None)
    memory = compiled.memory_analysis()
    batch_bytes = _batch_bytes(config, len(devices))
    return Forecast(
        config=config,
        platform=devices[0].platform,
        devices=len(devices),
        state_bytes=memory.argument_size_in_bytes - batch_bytes,
        batch_bytes=batch_bytes,
        temporary_bytes=memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes,
        kept_bytes=kept_bytes(config, model, config.batch_size // len(devices) // config.accumulate),
        flops=_flops(config, model, len(devices)),
        collectives=tuple(read_collectives(compiled.as_text(), len(devices))),
    )


def forecast_for(config: Config, target: Target, compile_step: CompileStep = compile_ahead) -> Forecast:
    """Compiles the step of `config` at full size for devices that need not be there.

    Args:
      compile_step: as `aot.compile_ahead`; a test may pass another function.
    Raises:
      ConfigError: the devices cannot share the batch, or a package that the compiler needs is missing.
      CompileError: XLA refused the program, or ended the process in which it compiled.
    """
    check_batch_size(config.batch_size, config.model.bn_group_size, target.devices, config.accumulate)
    model = build_model(config)
    compiled = compile_step(target, TRAIN_STEP, config)
    batch_bytes = _batch_bytes(config, target.devices)
    return Forecast(
        config=config,
        platform=target.name,
        devices=target.devices,
        state_bytes=compiled.argument_bytes - batch_bytes,
        batch_bytes=batch_bytes,
        temporary_bytes=compiled.temp_bytes,
        kept_bytes=kept_bytes(config, model, config.batch_size // target.devices // config.accumulate),
        flops=_flops(config, model, target.devices),
        collectives=compiled.collectives,
        target=target,
        hbm_bytes=compiled.hbm_bytes,
    )


def _batch_bytes(config: Config, devices: int) -> int:
    """A device's share of a batch, as the host fills it."""
    leaves = at_largest(task_of(config).fills[0], config.data).leaves.values()
    row = sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in leaves)
    return config.batch_size // devices * row


def _flops(config: Config, model: ResNet, devices: int) -> int:
    side, channels = max(config.data.train_sizes), config.data.channels
    forward = count_macs(model, image_size=side, channels=channels, frames=config.data.clip.frames)
    if all(group.rate for group in _groups(config)):
        return training_flops(forward) * config.batch_size // devices
    # Two images, since a norm without pixels has no variance of one; their statistics are as good as those of groups.
    alone = replace(config.model, remat=(), bn_group_size=0)
    gradient, arguments = _gradient(config, build_model(replace(config, model=alone, accumulate=1)), 2)

    def both_passes(*arguments: Any) -> Any:
        logits, backward = gradient(*arguments)
        return backward(logits)

    macs = count_macs_of(both_passes, *arguments)
    return macs * config.batch_size // devices


def kept_bytes(config: Config, model: ResNet, images: int) -> int:
    """What the forward pass over `images` images keeps for the backward pass, by JAX's count. Nothing is compiled."""
    gradient, arguments = _gradient(config, model, images)
    with forms_of("cpu"):  # a trace for every platform would keep what any of the platforms' forms needs
        kept = jax.tree.leaves(jax.eval_shape(lambda *args: gradient(*args)[1], *arguments))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in kept)


def _groups(config: Config) -> Sequence[Group]:
    return groups_and_phases(config, task_of(config))[0]


def _gradient(config: Config, model: ResNet, images: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A function that gives the logits and, as `jax.vjp`, their gradient by the parameters that are trained; and the
    shapes of its arguments."""
    side, channels = max(config.data.train_sizes), config.data.channels
    axes = axes_of(model, side, config.data.clip.frames)
    batch = jax.ShapeDtypeStruct((images, *axes, channels), jnp.float32)
    groups = _groups(config)

    def gradient(variables: Any, images: Array, key: Array) -> Any:
        params, frozen = partition(variables["params"], trained_of(variables["params"], groups))

        def logits(params: Any) -> Array:
            whole = combine(params, frozen)
            with fixed_norms(fixed_modules(whole, groups)):
                apply = partial(model.apply, train=True, mutable=["batch_stats"], rngs={"dropout": key})
                return apply({**variables, "params": whole}, images)[0]

        return jax.vjp(logits, params)

    return gradient, (variable_shapes(model, channels=channels), batch, jax.random.key(0))
