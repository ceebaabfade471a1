"""What a training step will take, told by compiling it: memory, arithmetic, communication. Nothing is run or read."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from resnet_jax.assemble import assemble, build_model
from resnet_jax.config import Config
from resnet_jax.cost.collectives import Collective, count_collectives, read_collectives
from resnet_jax.cost.count import count_macs
from resnet_jax.models import ResNet
from resnet_jax.tasks.classify.task import classify
from resnet_jax.training.mesh import make_mesh

IMAGES = 1_281_167  # of the training set: the schedule needs a number, and the program hardly depends on it


@dataclass(frozen=True)
class Forecast:
    """Of one update. Bytes are those of one device, as XLA for that kind of device lays them out.

    Attributes:
      state_bytes: parameters, statistics, the optimizer's state; the step updates them in place.
      batch_bytes: a device's share of the images and labels.
      temporary_bytes: activations, gradients and scratch.
      kept_bytes: what the forward pass keeps for the backward pass, by JAX's count and before any compiler; of a part.
      flops: of a device: forward and backward pass (three times the forward's), by the convolutions and matrix products
        of the network; what is computed again for `remat` is not counted.
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

    @property
    def peak_bytes(self) -> int:
        return self.state_bytes + self.batch_bytes + self.temporary_bytes

    @property
    def wire_bytes(self) -> float:
        """What each device sends in a step."""
        return sum(collective.wire_bytes for collective in self.collectives)


def some_devices(count: int) -> Sequence[jax.Device]:
    """So many devices of this machine, or virtual ones of its CPU. To be called before anything else of JAX.

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
    training = assemble(config, classify(config, model), make_mesh(devices), num_images=IMAGES)
    # A program that is not run need not be quick: its layout and its collectives are decided before. Scheduled for
    # speed, as it would be on a CPU, it would take the more memory the more rematerialisation it has.
    options: dict[str, Any] = {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
        "xla_cpu_enable_concurrency_optimized_scheduler": False,
    }
    on_cpu = devices[0].platform == "cpu"
    compiled: Any = training.lower_step().compile(compiler_options=options if on_cpu else None)
    memory = compiled.memory_analysis()
    batch_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in training.batch.values()) // len(devices)
    macs = count_macs(model, image_size=config.data.train_size, channels=config.data.channels)
    return Forecast(
        config=config,
        platform=devices[0].platform,
        devices=len(devices),
        state_bytes=memory.argument_size_in_bytes - batch_bytes,
        batch_bytes=batch_bytes,
        temporary_bytes=memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes,
        kept_bytes=kept_bytes(config, model, config.batch_size // len(devices) // config.accumulate),
        flops=3 * 2 * macs * config.batch_size // len(devices),
        collectives=tuple(read_collectives(compiled.as_text(), len(devices))),
    )


def kept_bytes(config: Config, model: ResNet, images: int) -> int:
    """What the forward pass over so many images keeps for the backward pass, by JAX's count; nothing is compiled."""
    side, channels = config.data.train_size, config.data.channels
    batch = jax.ShapeDtypeStruct((images, side, side, channels), jnp.float32)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, channels)), train=False))

    def backward(variables: Any, images: Array, key: Array) -> Any:
        apply = partial(model.apply, train=True, mutable=["batch_stats"], rngs={"dropout": key})
        return jax.vjp(lambda params: apply({**variables, "params": params}, images)[0], variables["params"])[1]

    kept = jax.tree.leaves(jax.eval_shape(backward, variables, batch, jax.random.key(0)))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in kept)


def describe(found: Forecast) -> str:
    """A few lines for people."""
    config, share = found.config, found.config.batch_size // found.devices
    parts = f", in {config.accumulate} parts" if config.accumulate > 1 else ""
    groups = config.model.bn_group_size or config.batch_size
    counts = ", ".join(f"{number} {kind}" for kind, number in count_collectives(found.collectives).items())
    devices = f"{found.devices} device(s) ({found.platform})"
    lines = [
        f"One update of {config.model.name}, compiled for {devices}; nothing was run",
        f"  batch               {config.batch_size} images, {share} on each device{parts}; BatchNorm over {groups}",
        f"  memory per device   {_size(found.peak_bytes)}: state {_size(found.state_bytes)}, "
        f"batch {_size(found.batch_bytes)}, activations and scratch {_size(found.temporary_bytes)}",
        f"                      the forward pass keeps {_size(found.kept_bytes)} for the backward pass",
        f"  arithmetic          {found.flops / 1e12:.3f} TFLOP per device",
        f"  collectives         {counts or 'none'}",
        f"  on the wire         {_size(found.wire_bytes)} sent by each device",
    ]
    if any(collective.repeated for collective in found.collectives):
        lines.append("  (a collective lies in a loop or a branch, and is counted once)")
    if found.platform == "cpu":
        lines.append("  Memory is as XLA for CPUs lays it out to save memory; a GPU or TPU differs.")
    return "\n".join(lines)


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
