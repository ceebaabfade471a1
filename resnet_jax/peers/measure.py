"""A comparison: what each network costs, by counting, and how fast it is on this machine, in one run and in turns."""

import contextlib
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import jax

from resnet_jax.cost import speed
from resnet_jax.cost.count import measure
from resnet_jax.cost.facts import stored_facts
from resnet_jax.models import init
from resnet_jax.peers import torch_count
from resnet_jax.peers.names import Compared, Published, find, missing, torch_has
from resnet_jax.peers.torch_process import COMPILED, EAGER, Ready, TorchProcess

JAX = "jax"
ENGINES = (JAX, EAGER, COMPILED)
PACKAGES = ("jax", "torch", "torchvision", "timm")

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Speed:
    """How one engine runs a network on this machine.

    Attributes:
      engine: one of `ENGINES`.
      problem: why it does not; the numbers are None then.
      device: the engine's name for it.
      first_seconds: until the first result was there, for one image, with compilation.
      latency: seconds of one image alone, the median.
      images_per_second: with a whole batch, from the median.
      peak_bytes: that the engine holds for a whole batch: parameters, statistics, images and what it computes.
    """

    engine: str
    problem: str = ""
    device: str | None = None
    first_seconds: float | None = None
    latency: float | None = None
    images_per_second: float | None = None
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Row:
    """A network of the comparison.

    Attributes:
      macs, activations: of one image's forward pass, see `cost.facts.Cost`.
    """

    word: str
    library: str
    weights: str
    image_size: int
    parameters: int
    macs: int
    activations: int
    published: Published | None
    speeds: tuple[Speed, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Attributes:
    left_out: words that no installed library knows, with the reason.
    machine: what the speeds were measured on and with.
    """

    rows: tuple[Row, ...]
    left_out: Mapping[str, str]
    batch_size: int
    rounds: int
    machine: Mapping[str, str]


def compare(
    words: Sequence[str],
    *,
    engines: Sequence[str] = ENGINES,
    batch_size: int = 16,
    rounds: int = 5,
    tell: Tell = lambda _: None,
) -> Comparison:
    """Compares networks.

    Args:
      words: see `names.find`.
      engines: which of `ENGINES` run the networks; none = nothing is timed.
      rounds: how often each program has its turn.
      tell: is told what is done now.

    Raises:
      ModelError, WeightsError, ConfigError: as `names.find`.
    """
    found, left_out = find(words)
    networks = [(one, _count(one)) for one in found]
    speeds = _time([one for one, _ in networks], engines, batch_size, rounds, tell) if engines else {}
    rows = [
        Row(one.word, one.library, one.weights, one.image_size, *cost, one.published, speeds.get(one.word, ()))
        for one, cost in networks
    ]
    if {EAGER, COMPILED} & {*engines} and (absent := missing("torch", "torchvision")):
        left_out[EAGER] = f"nothing is run by torch, since {' and '.join(absent)} cannot be imported"
    return Comparison(tuple(rows), left_out, batch_size, rounds, _machine())


def _count(one: Compared) -> tuple[int, int, int]:
    """Parameters, multiply-accumulates, activations."""
    cost: Any
    if one.library == "resnet_jax":
        fact = stored_facts()[one.name]
        cost = fact.cost if fact.image_size == one.image_size else measure(one.build(), image_size=one.image_size)
    else:
        cost = torch_count.count(one.build_torch, one.image_size)
    return cost.parameters, cost.macs, cost.activations


def _time(
    networks: Sequence[Compared], engines: Sequence[str], batch_size: int, rounds: int, tell: Tell
) -> dict[str, tuple[Speed, ...]]:
    """Prepares every program, then lets them take turns. Several sets of weights of one network share its programs."""
    ready: dict[str, Ready] = {}
    turns: dict[str, Callable[[int], float]] = {}
    problems: dict[str, str] = {}
    sizes = dict.fromkeys((1, batch_size))  # once each
    with contextlib.ExitStack() as stack:
        for name, one in {_program(one): one for one in networks}.items():
            process = None
            for engine in _engines(one, engines):
                tell(f"{one.word}: {engine}")
                if engine != JAX:
                    process = process or stack.enter_context(TorchProcess(one))
                for images in sizes:
                    key = f"{name} {engine} {images}"
                    if process is None or engine == JAX:
                        ready[key], turns[key] = _prepare_jax(one, images)
                        continue
                    answer = process.prepare(images, compiled=engine == COMPILED)
                    if isinstance(answer, str):
                        problems[f"{name} {engine}"] = answer
                        turns.pop(f"{name} {engine} 1", None)
                        break
                    ready[key], turns[key] = answer, partial(process.turn, images, compiled=engine == COMPILED)
        tell("measuring")
        seconds = speed.time_in_turns({key: partial(_awake, turn) for key, turn in turns.items()}, rounds)

    def result(name: str, engine: str) -> Speed:
        program = f"{name} {engine}"
        if program in problems:
            return Speed(engine, problems[program])
        latency, whole = seconds[f"{program} 1"], seconds[f"{program} {batch_size}"]
        if math.inf in (latency, whole):
            return Speed(engine, "its process died while it was timed")
        return Speed(
            engine=engine,
            device=ready[f"{program} 1"].device,
            first_seconds=ready[f"{program} 1"].first_seconds,
            latency=latency,
            images_per_second=batch_size / whole,
            peak_bytes=ready[f"{program} {batch_size}"].peak_bytes,
        )

    return {one.word: tuple(result(_program(one), engine) for engine in _engines(one, engines)) for one in networks}


def _program(one: Compared) -> str:
    return f"{one.library} {one.name} {one.image_size}"


def _engines(one: Compared, asked: Sequence[str]) -> list[str]:
    """Those of the engines that can run the network."""
    has = {JAX: one.library == "resnet_jax", EAGER: torch_has(one), COMPILED: torch_has(one)}
    return [engine for engine in ENGINES if engine in asked and has[engine]]


def _awake(turn: Callable[[int], float], launches: int) -> float:
    """A turn after one more launch, which wakes the threads: other programs have run since the last turn."""
    turn(1)
    return turn(launches)


def _prepare_jax(one: Compared, batch_size: int) -> tuple[Ready, Callable[[int], float]]:
    """The forward pass on one device."""
    model, device = one.build(), jax.devices()[0]
    variables = jax.device_put(init(model, jax.random.key(0)), device)
    images = jax.random.normal(jax.random.key(1), (batch_size, one.image_size, one.image_size, 3))
    forward = jax.jit(lambda variables, images: model.apply(variables, images, train=False))
    compiled, seconds = speed.compile_for(forward, variables, jax.device_put(images, device))
    program = speed.Program("", partial(compiled, variables, images), batch_size)
    seconds += program.turn(1)
    return Ready(device.device_kind, seconds, speed.peak_bytes(compiled)), program.turn


def _machine() -> dict[str, str]:
    """What the speeds depend on."""
    absent = missing(*PACKAGES)
    return {
        "devices": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES if package not in absent},
    }
