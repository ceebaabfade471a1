"""The forward pass and the training step, ours beside every peer that can run here, in one run and in turns.

    python benchmarks/step.py                                       # CPU: ResNet-50, batch 16, float32
    python benchmarks/step.py --models resnet18 resnet50 resnet152 digits
    python benchmarks/step.py --models resnet50 resnet152 --batch-size 256 --dtype bfloat16 --budget 400      # one GPU
    python benchmarks/step.py --memory                              # peak of ResNet-152's training step, batch 32
    python benchmarks/step.py --compile-time                        # of the same step: cold, and from the cache

Needs jax, flax and optax; torch and torchvision, or keras, to compare with. Peers: torchvision eager and under
`torch.compile` (channels_last; autocast in 16 bits), the network of google/flax's ImageNet example, and Keras
applications on their JAX backend. All work on images that lie in the device's memory. Each program has a process of its
own, as it would be started alone: ours with our flags of XLA, the others as they come. After warm-up the programs of a
table take turns, and the medians are shown. A peer that cannot run, or is not ready when the budget is spent, is left
out. Peak memory: what XLA's compiled program needs; for PyTorch what its allocator had at most on a GPU, and with
`--memory` by how much its process grew on a CPU.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory as well
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a checkout that is not installed

import jax
import jax.numpy as jnp
from flax_example import flax_example
from keras_peer import keras_program
from seat import CannotRun, Seat
from torch_peer import peak_of_a_process, torch_program

from resnet_jax.cost import speed
from resnet_jax.cost.count import measure
from resnet_jax.cost.peaks import peak_of
from resnet_jax.models import create_model
from resnet_jax.runtime.garbage import collect_seldom
from resnet_jax.runtime.xla_flags import set_xla_flags

# What --peers names -> its name in a table.
PEERS = {"flax": "flax example", "keras": "keras", "eager": "torch eager", "compile": "torch compile"}


def network(name: str, dtype: str) -> tuple[Any, int, int]:
    """Ours, with the side and the channels of its images."""
    if name == "digits":
        return create_model("cifar_resnet29", num_classes=10, dtype=jnp.dtype(dtype)), 8, 1
    return create_model(name, dtype=jnp.dtype(dtype)), 224, 3


def build(peer: str, name: str, batch_size: int, dtype: str, train: bool) -> speed.Program:
    """A program, in the process that will run it. Ours is begun as `train.py` is: with our flags of XLA."""
    if peer == "ours":
        collect_seldom()
        set_xla_flags()
    model, size, channels = network(name, dtype)
    if peer in ("torch eager", "torch compile"):
        return torch_program(name, batch_size, size, dtype, train=train, compiled=peer == "torch compile")
    images, labels = speed.synthetic_batch(batch_size, size, channels, model.num_classes)
    if peer == "flax example":
        return flax_program(name, images, labels, dtype, train)
    if peer == "keras":
        return keras_program(name, images, labels, dtype, train)
    return speed.train_program(model, images, labels) if train else speed.forward_program(model, images)


def flax_program(name: str, images: Any, labels: Any, dtype: str, train: bool) -> speed.Program:
    forward, variables, step, state = flax_example(name, images, labels, jnp.dtype(dtype))
    if train:
        compiled, seconds = speed.compile_for(step, state, images, labels)
        launch = speed.repeating(compiled, state, images, labels)
    else:
        compiled, seconds = speed.compile_for(forward, variables, images)
        launch = partial(compiled, variables, images)
    return speed.Program("flax example", launch, len(images), seconds, speed.peak_bytes(compiled))


@dataclass(frozen=True)
class Row:
    """One program's. `mfu`, the share of the device's arithmetic, is None where its peak is not known."""

    program: str
    images_per_second: float
    milliseconds: float
    compile_seconds: float
    peak_bytes: int | None
    mfu: float | None


@dataclass(frozen=True)
class Table:
    """Programs that took turns, ours the first.

    Attributes:
      absent: why others could not run.
      floors: images per second that the device's arithmetic and memory allow at most; empty where they aren't known.
    """

    title: str
    rows: tuple[Row, ...]
    absent: dict[str, str]
    floors: dict[str, float]

    @property
    def ratio(self) -> float | None:
        """Our images per second by the best peer's."""
        best = max((row.images_per_second for row in self.rows[1:]), default=None)
        return self.rows[0].images_per_second / best if best else None

    def __str__(self) -> str:
        lines = [self.title, *(f"{peer}: cannot run here: {why}" for peer, why in self.absent.items())]
        lines.append(f"{'':14}  images/s   ms/step  compile s  peak GB    MFU  ours/this")
        for row in self.rows:
            memory = f"{row.peak_bytes / 1e9:.2f}" if row.peak_bytes else "-"
            mfu = "-" if row.mfu is None else f"{row.mfu:.1%}"
            lines.append(
                f"{row.program:14}  {row.images_per_second:>8,.1f}  {row.milliseconds:>8,.2f}  "
                f"{row.compile_seconds:>9.1f}  {memory:>7}  {mfu:>5}  "
                f"{self.rows[0].images_per_second / row.images_per_second:>8.2f}x"
            )
        if self.ratio:
            lines.append(f"ours / best peer: {self.ratio:.2f}")
        if self.floors:
            arithmetic, memory_ = self.floors["arithmetic"], self.floors["memory"]
            binding = "arithmetic" if arithmetic <= memory_ else "memory"
            lines.append(
                f"floors: arithmetic {arithmetic:,.0f} images/s, memory with everything fused {memory_:,.0f} images/s: "
                f"{binding} binds"
            )
        return "\n".join(lines)


def time_peers(
    name: str,
    *,
    train: bool,
    peers: Sequence[str],
    batch_size: int,
    dtype: str,
    rounds: int,
    round_seconds: float,
    deadline: float = float("inf"),
    torch_beside: bool = False,
) -> Table:
    """Ours and the peers, in turns.

    Args:
      peers: names of `PEERS`.
      deadline: of `time.perf_counter()`, by which a peer must be ready.
      torch_beside: have PyTorch get ready while XLA compiles, to save time where there are cores for both.
    Raises:
      CannotRun: ours does not run.
    """
    names = ["ours", *(PEERS[peer] for peer in peers if name != "digits")]
    seats: dict[str, Seat] = {}
    absent = {}

    def start(peer: str) -> None:
        seats[peer] = Seat(partial(build, peer, name, batch_size, dtype, train))

    try:
        for peer in names:
            if torch_beside and peer.startswith("torch"):
                start(peer)
        for peer in names:
            if peer not in seats:
                start(peer)
            unhurried = peer == "ours" or deadline == float("inf")
            try:
                seats[peer].ready(None if unhurried else max(0.0, deadline - time.perf_counter()))
            except CannotRun as error:  # it must not stop the others
                if peer == "ours":
                    raise
                del seats[peer]
                absent[peer] = str(error)
        seconds = speed.time_in_turns({peer: seat.turn for peer, seat in seats.items()}, rounds, round_seconds)
    finally:
        for seat in seats.values():
            seat.leave()
    model, size, channels = network(name, dtype)
    cost = measure(model, image_size=size, channels=channels)
    peak = peak_of(jax.devices()[0])
    flops = speed.flops_per_image(cost, train=train)
    rows = tuple(
        Row(
            peer,
            rate := seat.images / seconds[peer],
            1e3 * seconds[peer],
            seat.compile_seconds,
            seat.peak_bytes,
            rate * flops / peak.flops(dtype) if peak else None,
        )
        for peer, seat in ((peer, seats[peer]) for peer in names if peer in seats)
    )
    floors = {}
    if peak:
        floor = speed.floor(cost, peak, dtype, train=train)
        floors = {"arithmetic": 1 / floor.flops_seconds, "memory": 1 / floor.bytes_seconds}
    what = "training step" if train else "forward pass"
    return Table(f"{name}, {what}, batch {batch_size}, {dtype}", rows, absent, floors)


def memory(name: str, batch_size: int, dtype: str) -> None:
    def peak(peer: str) -> int:
        seat = Seat(partial(build, peer, name, batch_size, dtype, train=True))
        seat.ready()
        seat.leave()
        assert seat.peak_bytes, "this backend does not say what its programs need"
        return seat.peak_bytes

    ours = peak("ours")
    print(f"{name}, training step, batch {batch_size}, {dtype}: ours, compiled: {ours / 1e9:.2f} GB", flush=True)
    on_cpu = jax.default_backend() == "cpu"
    theirs = peak_of_a_process(name, batch_size, 224, dtype) if on_cpu else peak("torch eager")
    print(f"torch eager, measured: {theirs / 1e9:.2f} GB; ours / theirs: {ours / theirs:.2f}")


def compile_time(name: str, batch_size: int, dtype: str) -> None:
    """Twice in processes of their own, with one cache."""
    code = (
        f"from step import build\nprint(build('ours', {name!r}, {batch_size}, {dtype!r}, train=True).compile_seconds)"
    )
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        env["PYTHONPATH"] = str(Path(__file__).resolve().parent)
        for state in ("cold", "from the cache"):
            out = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True)
            seconds = float(out.stdout.split()[-1])
            print(f"{name}, training step, batch {batch_size}, {dtype}: traced and compiled {state} in {seconds:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet50"])
    parser.add_argument("--modes", nargs="+", choices=("forward", "train"), default=["forward", "train"])
    parser.add_argument("--peers", nargs="*", choices=tuple(PEERS), default=list(PEERS))
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--round-seconds", type=float, default=0.5, help="a turn of a program takes about as long")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds by which a peer must be ready")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--compile-time", action="store_true")
    options = parser.parse_args()
    deadline = time.perf_counter() + options.budget
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {os.cpu_count()} cores")
    if options.memory:
        memory("resnet152", options.batch_size or 32, options.dtype)
    if options.compile_time:
        compile_time("resnet152", options.batch_size or 32, options.dtype)
    if options.memory or options.compile_time:
        return
    options.batch_size = options.batch_size or 16
    for name in options.models:
        for mode in options.modes:
            table = time_peers(
                name,
                train=mode == "train",
                peers=options.peers,
                batch_size=options.batch_size,
                dtype=options.dtype,
                rounds=options.rounds,
                round_seconds=options.round_seconds,
                deadline=deadline,
            )
            print(f"\n{table}", flush=True)


if __name__ == "__main__":
    main()
