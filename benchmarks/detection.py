"""Detectors beside torchvision's, eager and channels_last, in one run and in turns.

    python benchmarks/detection.py                                           # ours alone, at 800 pixels
    python benchmarks/detection.py --torch-python envs/torch/bin/python      # beside torchvision with its operators
    python benchmarks/detection.py --networks fcos_resnet50_fpn --size 256 341 --rounds 3

`whole` is from an image of bytes to boxes in its pixels, `network` the same without suppression and RoI align: the
backbone, the pyramid, and the heads on given grids of 1,000 boxes (and of 100 for masks). `nms` is of 1,000 boxes, and
`align` the grids of 1,000 boxes on the pyramid. Both sides are float32 with random weights, of the same sizes, one
image at a time, and each has a process of its own: ours with our flags of XLA. After a warm-up they take turns. Shown
are medians, and the median of the ratios within a round.

torchvision's operators are compiled for builds of torch that our tests do not have. So its side may be another Python:
an environment with torch 2.14.1 and torchvision 0.29.1.
"""

import argparse
import os
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a checkout that is not installed

import jax
import jax.numpy as jnp
import numpy as np
from seat import Seat

import resnet_jax as rn
from resnet_jax.cost import speed
from resnet_jax.models.detect.two_stage import TwoStage
from resnet_jax.runtime.garbage import collect_seldom
from resnet_jax.runtime.xla_flags import set_xla_flags
from resnet_jax.tasks.detect.find import level_sizes, pool
from resnet_jax.tasks.detect.nms import nms

PARTS = ("whole", "network", "nms", "align")
PROPOSALS, DETECTIONS = 1000, 100


def build(part: str, name: str, height: int, width: int) -> speed.Program:
    """A part of ours, in the process that will run it."""
    collect_seldom()
    set_xla_flags()
    model = rn.create_model(name, min_size=min(height, width), max_size=max(height, width))
    rng = np.random.default_rng(0)
    canvas = (-(-height // 32) * 32, -(-width // 32) * 32)
    boxes = random_boxes(rng, height, width)
    if part == "nms":
        scores = jnp.asarray(rng.uniform(size=PROPOSALS), jnp.float32)
        return compiled(lambda boxes, scores: nms(boxes, scores, 0.7), boxes, scores)
    if part == "align":
        channels = model.pyramid_width
        maps = tuple(jnp.ones((1, *size, channels)) for size in level_sizes(model, canvas))
        return compiled(lambda maps, boxes: pool(model, maps, boxes, 7), maps, boxes[None])
    variables = rn.init(model, jax.random.key(0))
    if part == "whole":
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        return speed.Program("ours", lambda: rn.detect(model, variables, [image]), 1)
    images = jax.random.normal(jax.random.key(1), (1, *canvas, 3))
    grids = [jnp.ones((count, side, side, model.pyramid_width)) for count, side in ((PROPOSALS, 7), (DETECTIONS, 14))]

    def network(variables: Any, images: Any, grids: Any) -> Any:
        out = model.apply(variables, images, train=False)
        said = [out["scores"], out["deltas"]]
        if isinstance(model, TwoStage):
            said.append(model.apply(variables, grids[0], train=False, method="boxes"))
        if getattr(model, "mask", False):
            said.append(model.apply(variables, grids[1], train=False, method="masks"))
        return said

    return compiled(network, variables, images, grids)


def compiled(function: Any, *arguments: Any) -> speed.Program:
    program, seconds = speed.compile_for(jax.jit(function), *arguments)
    return speed.Program("ours", partial(program, *arguments), 1, seconds, speed.peak_bytes(program))


def random_boxes(rng: np.random.Generator, height: int, width: int) -> jax.Array:
    """As many small as large ones, like those of `detection_peer.py`."""
    corner = rng.uniform(0, 0.9, (PROPOSALS, 2)) * [width, height]
    sides = np.exp(rng.uniform(0, 3.5, (PROPOSALS, 2)) + 2.5)
    return jnp.asarray(np.concatenate([corner, np.minimum(corner + sides, [width, height])], 1), jnp.float32)


class Peer:
    """torchvision's side, in a process of another Python."""

    def __init__(self, python: str, name: str, height: int, width: int):
        script = Path(__file__).with_name("detection_peer.py")
        self._process = subprocess.Popen(
            [python, str(script), name, str(height), str(width)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.version = self._answer().removeprefix("ready ")

    def turn(self, part: str) -> float | None:
        """Seconds, or None where torchvision's network has no such part."""
        assert self._process.stdin
        self._process.stdin.write(f"{part}\n")
        self._process.stdin.flush()
        answer = self._answer()
        return None if answer == "none" else float(answer)

    def leave(self) -> None:
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("torchvision's process has ended; what it wrote is above")
        return line.strip()


def compare(name: str, height: int, width: int, rounds: int, python: str | None) -> None:
    peer = Peer(python, name, height, width) if python else None
    print(f"{name}{f' beside {peer.version}' if peer else ''}:", flush=True)
    two_stage = isinstance(rn.create_model(name), TwoStage)
    try:
        for part in PARTS if two_stage else PARTS[:-1]:
            seat = Seat(partial(build, part, name, height, width))
            seat.ready()
            rows = [(seat.turn(1), peer.turn(part) if peer else None) for _ in range(rounds + 1)][1:]
            seat.leave()
            print(f"  {part:8}" + row_of(rows, seat.compile_seconds), flush=True)
    finally:
        if peer:
            peer.leave()


def row_of(rows: list[tuple[float, float | None]], compile_seconds: float) -> str:
    ours = statistics.median(ours for ours, _ in rows)
    text = f" ours {1e3 * ours:,.1f} ms (compiled in {compile_seconds:.1f} s)"
    ratios = [theirs / ours for ours, theirs in rows if theirs is not None]
    if not ratios:
        return text
    theirs = statistics.median(theirs for _, theirs in rows if theirs is not None)
    span = f"{statistics.median(ratios):.2f}x as fast ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"{text}, torchvision {1e3 * theirs:,.1f} ms: {span}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn"])
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1066), help="height and width of the image")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--torch-python", help="a Python with torch and torchvision's compiled operators")
    asked = parser.parse_args()
    height, width = asked.size
    print(f"{height} x {width} pixels, float32, {os.cpu_count()} cores, jax {jax.__version__}", flush=True)
    for name in asked.networks:
        compare(name, height, width, asked.rounds, asked.torch_python)


if __name__ == "__main__":
    main()
