"""What pruning gives on this machine's CPU: images a second of several runs, their cost and their accuracy.

    python benchmarks/prune.py runs/fashion runs/half-tuned runs/inner-tuned
    python benchmarks/prune.py runs/fashion runs/half-tuned --batch 1 --rounds 20

The first run is the whole network, and the others are compared with it. All predict the same number of images in one
process, in float32, compiled by XLA, as they were trained and not folded. They take turns, round by round, so that all
see the same load. The times are medians; `times` is the median over the rounds of how often faster a run is than the
first. The accuracy is the one in `result.json`.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from resnet_jax.runtime.xla_flags import set_xla_flags

set_xla_flags()

import jax  # noqa: E402
import numpy as np  # noqa: E402

from resnet_jax.run.predict import Run, load_run  # noqa: E402
from resnet_jax.run.prune import macs_of  # noqa: E402


def prediction(run: Run, batch: int) -> Callable[[], object]:
    """A compiled prediction for `batch` images of noise, with all that comes before it on the device."""
    shapes = {name: leaf for name, leaf in run.task.fills[1].leaves.items() if name == "image"}
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (batch, *shape)).astype(dtype) for name, (shape, dtype) in shapes.items()}
    program, variables = jax.jit(run.task.predict), jax.device_put(run.state.eval_variables)
    return lambda: jax.block_until_ready(program(variables, images))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    runs = {path.name: load_run(path) for path in args.runs}
    results = {path.name: json.loads((path / "result.json").read_text()) for path in args.runs}
    calls = {name: prediction(run, args.batch) for name, run in runs.items()}
    for call in calls.values():
        call()  # compiles
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(args.rounds):
        for name, call in calls.items():
            call()  # wakes the threads
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    first, width = next(iter(runs)), max(map(len, runs))
    print(f"{args.batch} images at a time, {args.rounds} rounds, {jax.device_count()} x {jax.devices()[0].device_kind}")
    print(f"{'run':<{width}}  parameters         MACs  share  images/s  times   top-1")
    whole = macs_of(runs[first].task)
    for name, run in runs.items():
        parameters, macs = sum(leaf.size for leaf in jax.tree.leaves(run.state.params)), macs_of(run.task)
        times = statistics.median(a / b for a, b in zip(seconds[first], seconds[name], strict=True))
        print(
            f"{name:<{width}}  {parameters:>10,}  {macs:>11,}  {macs / whole:>5.3f}  "
            f"{args.batch / statistics.median(seconds[name]):>8.0f}  {times:>5.2f}  {results[name]['top1']:>7.2%}"
        )


if __name__ == "__main__":
    main()
