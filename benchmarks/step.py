"""The forward pass and the training step, ours beside every peer that can run here, in one run and in turns.

    python benchmarks/step.py                                       # CPU: ResNet-50, batch 16, float32
    python benchmarks/step.py --models resnet18 resnet50 resnet152 digits
    python benchmarks/step.py --models resnet50 resnet152 --batch-size 256 --dtype bfloat16 --budget 440      # one GPU
    python benchmarks/step.py --memory                              # peak of ResNet-152's training step, batch 32
    python benchmarks/step.py --compile-time                        # of the same step: cold, and from the cache

Needs jax, flax and optax; torch and torchvision to compare with. Peers: torchvision eager and under `torch.compile`
(channels_last; autocast in 16 bits), and the network of google/flax's ImageNet example. All work on images that lie in
the device's memory. A peer that cannot run says why and is left out. After warm-up all programs of a table take turns,
and the medians are shown. Peak memory: what XLA's compiled program needs; for PyTorch what its allocator had at most on
a GPU, and with `--memory` by how much its process grew on a CPU.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory as well
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a checkout that is not installed

import jax
import jax.numpy as jnp
from flax_example import SHAPES, flax_example
from torch_peer import peak_of_a_process, torch_program

from resnet_jax import benchmark as bench
from resnet_jax.models import create_model
from resnet_jax.profile import measure
from resnet_jax.training.peaks import peak_of

Build = Callable[[], bench.Program]


def network(name: str, dtype: str) -> tuple[Any, int, int]:
    """Ours, with the side and the channels of its images."""
    if name == "digits":
        return create_model("cifar_resnet29", num_classes=10, dtype=jnp.dtype(dtype)), 8, 1
    return create_model(name, dtype=jnp.dtype(dtype)), 224, 3


def programs(name: str, batch_size: int, dtype: str, train: bool, peers: list[str]) -> Iterator[tuple[str, Build]]:
    model, size, channels = network(name, dtype)
    images, labels = bench.synthetic_batch(batch_size, size, channels, model.num_classes)
    if train:
        yield "ours", partial(bench.train_program, model, images, labels, "ours")
    else:
        yield "ours", partial(bench.forward_program, model, images, "ours")
    if name not in SHAPES:
        return
    if "flax" in peers:
        yield "flax example", partial(flax_program, name, images, labels, dtype, train)
    for peer in ("eager", "compile"):
        if peer in peers:
            options = {"train": train, "compiled": peer == "compile"}
            yield f"torch {peer}", partial(torch_program, name, batch_size, size, dtype, **options)


def flax_program(name: str, images: Any, labels: Any, dtype: str, train: bool) -> bench.Program:
    forward, variables, step, state = flax_example(name, images, labels, jnp.dtype(dtype))
    if train:
        compiled, seconds = bench.compile_for(step, state, images, labels)
        launch = bench.repeating(compiled, state, images, labels)
    else:
        compiled, seconds = bench.compile_for(forward, variables, images)
        launch = partial(compiled, variables, images)
    return bench.Program("flax example", launch, len(images), seconds, bench.peak_bytes(compiled))


def table(name: str, train: bool, options: argparse.Namespace, deadline: float) -> None:
    ready = []
    print(f"\n{name}, {'training step' if train else 'forward pass'}, batch {options.batch_size}, {options.dtype}")
    for label, build in programs(name, options.batch_size, options.dtype, train, options.peers):
        if ready and time.perf_counter() > deadline:
            print(f"{label}: left out, the budget of {options.budget} s is spent")
            continue
        try:
            ready.append(build())
        except Exception as error:  # whatever keeps a peer from running is to be said, and must not stop the others
            if label == "ours":
                raise
            print(f"{label}: cannot run here: {type(error).__name__}: {str(error).strip().splitlines()[0][:100]}")
    seconds = bench.time_in_turns(ready, options.rounds, options.round_seconds)
    rates = {program.name: program.images / seconds[program.name] for program in ready}
    best = max((rate for label, rate in rates.items() if label != "ours"), default=None)
    model, size, channels = network(name, options.dtype)
    cost = measure(model, image_size=size, channels=channels)
    peak = peak_of(jax.devices()[0])
    print(f"{'':14}  images/s   ms/step  compile s  peak GB    MFU  ours/this")
    for program in ready:
        rate = rates[program.name]
        memory = f"{program.peak_bytes / 1e9:.2f}" if program.peak_bytes else "-"
        flops = bench.flops_per_image(cost, train=train)
        mfu = f"{rate * flops / peak.flops(options.dtype):.1%}" if peak else "-"
        print(
            f"{program.name:14}  {rate:>8,.1f}  {1e3 * seconds[program.name]:>8,.2f}  {program.compile_seconds:>9.1f}  "
            f"{memory:>7}  {mfu:>5}  {rates['ours'] / rate:>8.2f}x"
        )
    if best:
        print(f"ours / best peer: {rates['ours'] / best:.2f}")
    if peak:
        floor = bench.floor(cost, peak, options.dtype, train=train)
        print(
            f"floors: arithmetic {1 / floor.flops_seconds:,.0f} images/s, memory with everything fused "
            f"{1 / floor.bytes_seconds:,.0f} images/s: {floor.binding} binds"
        )
    sys.stdout.flush()


def memory(name: str, batch_size: int, dtype: str) -> None:
    model, size, channels = network(name, dtype)
    images, labels = bench.synthetic_batch(batch_size, size, channels, model.num_classes)
    ours = bench.train_program(model, images, labels)
    assert ours.peak_bytes, "this backend does not say what its programs need"
    print(f"{name}, training step, batch {batch_size}, {dtype}: ours, compiled: {ours.peak_bytes / 1e9:.2f} GB")
    if jax.default_backend() == "cpu":
        theirs = peak_of_a_process(name, batch_size, size, dtype)
    else:
        theirs = torch_program(name, batch_size, size, dtype, train=True, compiled=False).peak_bytes or 0
    print(f"torch eager, measured: {theirs / 1e9:.2f} GB; ours / theirs: {ours.peak_bytes / theirs:.2f}")


def compile_time(name: str, batch_size: int, dtype: str) -> None:
    """Twice in processes of their own, with one cache."""
    code = (
        "from step import bench, network\n"
        f"model, size, channels = network({name!r}, {dtype!r})\n"
        f"batch = bench.synthetic_batch({batch_size}, size, channels, model.num_classes)\n"
        "print(bench.train_program(model, *batch).compile_seconds)"
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
    parser.add_argument(
        "--peers", nargs="*", choices=("flax", "eager", "compile"), default=["flax", "eager", "compile"]
    )
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--round-seconds", type=float, default=0.5, help="a turn of a program takes about as long")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds after which no peer is begun")
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
            table(name, mode == "train", options, deadline)


if __name__ == "__main__":
    main()
