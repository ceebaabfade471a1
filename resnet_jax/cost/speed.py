"""How fast a network runs on this machine, on images in the device's memory, and what limits its speed."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from resnet_jax.config import Classify
from resnet_jax.cost.facts import Cost
from resnet_jax.cost.peaks import Peak, training_flops
from resnet_jax.models import ResNet, init
from resnet_jax.models.forms import forms_of_this_machine
from resnet_jax.models.headed import resnet_in
from resnet_jax.runtime.garbage import give_back
from resnet_jax.runtime.mesh import make_mesh, replicated, split_batch
from resnet_jax.tasks.classify.loss import make_loss
from resnet_jax.training.losses import one_hot
from resnet_jax.training.state import new_state
from resnet_jax.training.step import make_train_step


@dataclass(frozen=True)
class Program:
    """A program to be timed.

    Attributes:
      launch: does the work once. It may return before the work is done; `wait` waits for what it returns.
      images: images per launch.
      compile_seconds: time until the program could be launched.
      peak_bytes: of memory that it needs on a device; None = not known.
      text: gives the optimised HLO module, if XLA made the program.
    """

    name: str
    launch: Callable[[], Any]
    images: int
    compile_seconds: float = 0.0
    peak_bytes: int | None = None
    wait: Callable[[Any], Any] = jax.block_until_ready
    text: Callable[[], str] | None = None

    def turn(self, launches: int) -> float:
        """Seconds per launch, measured over `launches` launches. Only the last one is waited for."""
        started = time.perf_counter()
        for _ in range(launches):
            out = self.launch()
        self.wait(out)
        return (time.perf_counter() - started) / launches


def synthetic_batch(
    batch_size: int, image_size: int, channels: int, num_classes: int, *, frames: int | None = None
) -> tuple[Array, Array]:
    """Normalised float32 noise (N, H, W, C) and labels (N,), split over the devices. With `frames`, (N, T, H, W, C)."""
    sharding = split_batch(make_mesh())
    axes = (image_size, image_size) if frames is None else (frames, image_size, image_size)
    images = jax.random.normal(jax.random.key(0), (batch_size, *axes, channels))
    return jax.device_put((images, jnp.arange(batch_size) % num_classes), sharding)


def outputs_of(model: Any) -> int:
    """Columns of what a network puts out. A step of a network for embeddings is timed as if these were classes."""
    return model.num_classes or getattr(model, "embedding_size", 0)


def forward_program(model: ResNet, images: Array, name: str = "forward") -> Program:
    """The forward pass in evaluation, to logits."""
    variables = init(model, jax.random.key(0), channels=images.shape[-1])
    variables = jax.device_put(variables, replicated(make_mesh()))
    forward = jax.jit(lambda variables, images: model.apply(variables, images, train=False))
    compiled, seconds = compile_for(forward, variables, images)
    return Program(name, partial(compiled, variables, images), len(images), seconds, peak_bytes(compiled))


def train_program(model: ResNet, images: Array, labels: Array, name: str = "train") -> Program:
    """The step that `train.py` runs, without augmentation: SGD with momentum and weight decay."""
    mesh = make_mesh()
    optimizer = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(1e-3, momentum=0.9))
    state = new_state(init(model, jax.random.key(0), channels=images.shape[-1]), optimizer, jax.random.key(0))

    def take_as_they_are(key: Array | None, batch: dict[str, Array]) -> dict[str, Array]:
        return {**batch, "target": one_hot(batch["label"], outputs_of(model))}

    loss = make_loss(model, take_as_they_are, Classify())
    step = make_train_step(loss, optimizer, mesh, bn_group_size=resnet_in(model).bn_group_size)
    state = jax.device_put(state, replicated(mesh))
    batch = {"image": images, "label": labels}
    compiled, seconds = compile_for(step, state, batch)
    launch = repeating(compiled, state, batch)
    return Program(name, launch, len(images), seconds, peak_bytes(compiled), text=compiled.as_text)


def repeating(step: Callable[..., tuple[Any, Any]], state: Any, *inputs: Any) -> Callable[[], Any]:
    """A launch that gives each call of `step` the state that the call before has returned."""
    box = [state]

    def launch() -> Any:
        box[0], out = step(box[0], *inputs)
        return out

    return launch


def compile_for(function: Any, *arguments: Any) -> tuple[Any, float]:
    """The compiled program, and the seconds of tracing and compiling."""
    started = time.perf_counter()
    with forms_of_this_machine():
        compiled = function.lower(*arguments).compile()
    seconds = time.perf_counter() - started
    give_back()
    return compiled, seconds


def peak_bytes(compiled: Any) -> int | None:
    """The device memory that a compiled program needs: arguments, results that do not replace them, and scratch."""
    memory = compiled.memory_analysis()
    if memory is None:
        return None
    new = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + new + memory.temp_size_in_bytes


def time_in_turns(
    turns: Mapping[str, Callable[[int], float]], rounds: int = 5, round_seconds: float = 0.5
) -> dict[str, float]:
    """Median seconds per launch of each program.

    After a warm-up the programs take turns, so that a disturbance of the machine does not fall on one of them alone. A
    turn has as many launches as fit into about `round_seconds`.

    Args:
      turns: each program's `Program.turn`, by name.
    """
    launches = {}
    for name, turn in turns.items():
        turn(1)
        launches[name] = max(1, math.floor(round_seconds / turn(1)))
    times: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            times[name].append(turn(launches[name]))
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def trace(program: Program, folder: Path, launches: int = 3) -> None:
    """Writes a profile of a few launches, which TensorBoard's profile plug-in and xprof open."""
    program.wait(program.launch())
    with jax.profiler.trace(str(folder)):
        for _ in range(launches):
            program.wait(program.launch())


@dataclass(frozen=True)
class Floor:
    """The least seconds that an image can take on one device, because of its arithmetic and because of its memory.

    The memory's floor assumes that everything element-wise is fused into convolutions. In training, the output of each
    convolution is then written, read by the next layer and again for the gradient, and the gradient is written and
    read: five times the activations. In the forward pass the output is written and read. Weights are left out; a batch
    shares them.
    """

    flops_seconds: float
    bytes_seconds: float

    @property
    def binding(self) -> str:
        return "arithmetic" if self.flops_seconds >= self.bytes_seconds else "memory"


def flops_per_image(cost: Cost, *, train: bool) -> float:
    return training_flops(cost.macs) if train else 2 * cost.macs


def floor(cost: Cost, peak: Peak, dtype: Any, *, train: bool) -> Floor:
    moved = cost.activations * jnp.dtype(dtype).itemsize * (5 if train else 2)
    return Floor(flops_per_image(cost, train=train) / peak.flops(dtype), moved / peak.bytes)
