"""What pruning gives on this machine's CPU: images a second of several runs, their cost and their accuracy.

    python benchmarks/prune.py runs/fashion runs/half-tuned runs/inner-tuned
    python benchmarks/prune.py runs/fashion runs/half-tuned --batch 1 --rounds 30
    python benchmarks/prune.py runs/fashion --keep 0.5 0.6 0.7 0.8 0.9    # is a layer of any width faster?

The first run is the whole network, and the others are compared with it. All name the classes of the same number of
images in one process, in float32: compiled by XLA as `predict` does, and then by onnxruntime on what `export --format
onnx` writes. The runs take turns, round by round, so that all see the same load. The images a second are medians;
`times` is the median over the rounds of how much faster a run is than the first. The accuracy is that in `result.json`.
With `--keep`, networks with these shares of each layer of the first run are tried too, without fine-tuning.
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

from resnet_jax.compress import prune  # noqa: E402
from resnet_jax.export.graph import Graph  # noqa: E402
from resnet_jax.export.job import Job  # noqa: E402
from resnet_jax.export.onnx_file import onnx_model  # noqa: E402
from resnet_jax.run.named import network_of  # noqa: E402
from resnet_jax.run.predict import Run, load_run  # noqa: E402
from resnet_jax.run.prune import macs_of, smaller_run  # noqa: E402

Call = Callable[[], object]


def by_xla(run: Run, batch: int) -> Call:
    shape, dtype = run.task.fills[1].leaves["image"]
    images = {"image": np.random.default_rng(0).integers(0, 256, (batch, *shape)).astype(dtype)}
    program, variables = jax.jit(run.task.predict), jax.device_put(run.state.eval_variables)
    return lambda: jax.block_until_ready(program(variables, images))


def by_onnxruntime(run: Run, batch: int) -> Call:
    import onnxruntime

    job = Job(network_of(run), batch)
    small = job.folded()
    model = onnx_model(job, small.model, small.variables, Graph()).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).normal(size=(batch, job.preset.channels, *job.sides)).astype(np.float32)
    return lambda: session.run(None, {"images": images})


def turns(calls: dict[str, Call], rounds: int) -> dict[str, list[float]]:
    """The seconds of each call, in rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # compiles
    for _ in range(rounds):
        for name, call in calls.items():
            call()  # wakes the threads
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--keep", nargs="*", type=float, default=())
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    runs = {path.name: load_run(path) for path in args.runs}
    accuracy = {path.name: f"{json.loads((path / 'result.json').read_text())['top1']:.2%}" for path in args.runs}
    whole = next(iter(runs.values()))
    for share in args.keep:
        pruned = prune(whole.model, whole.state.eval_variables, share)
        runs[f"keep {share:g}"] = smaller_run(whole, pruned.model, pruned.variables)
    speeds: dict[str, list[str]] = {name: [] for name in runs}
    for engine in (by_xla, by_onnxruntime):  # one after the other: the threads of one slow down another
        try:
            seconds = turns({name: engine(run, args.batch) for name, run in runs.items()}, args.rounds)
        except ImportError as error:
            print(f"{engine.__name__} is left out: {error}")
            continue
        first = next(iter(seconds.values()))
        for name, own in seconds.items():
            times = statistics.median(a / b for a, b in zip(first, own, strict=True))
            speeds[name].append(f"{args.batch / statistics.median(own):>10.0f}  {times:>5.2f}")
    width, macs_of_whole = max(map(len, runs)), macs_of(whole.task)
    print(f"{args.batch} images at a time, {args.rounds} rounds, {jax.device_count()} x {jax.devices()[0].device_kind}")
    print(f"{'run':<{width}}  parameters         MACs  share   top-1    XLA: /s  times    ORT: /s  times")
    for name, run in runs.items():
        parameters, macs = sum(leaf.size for leaf in jax.tree.leaves(run.state.params)), macs_of(run.task)
        cost = f"{parameters:>10,}  {macs:>11,}  {macs / macs_of_whole:>5.3f}  {accuracy.get(name, ''):>6}"
        print(f"{name:<{width}}  {cost}  {'  '.join(speeds[name])}")


if __name__ == "__main__":
    main()
