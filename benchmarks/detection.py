"""Detectors beside torchvision's, eager and channels_last, in one run and in turns.

    python benchmarks/detection.py                                           # ours alone, at 800 pixels
    python benchmarks/detection.py --torch-python envs/torch/bin/python      # beside torchvision with its operators
    python benchmarks/detection.py --networks fcos_resnet50_fpn --size 256 341 --rounds 3
    python benchmarks/detection.py --step                                    # memory and time of the training step
    python benchmarks/detection.py --step --fg-iou 0                         # where all proposals are to find an object
    python benchmarks/detection.py --shares                                  # of suppression and RoI align, in the time

`whole` is from an image of bytes to boxes in its pixels, `network` the same without suppression and RoI align: the
backbone, the pyramid, and the heads on given grids of 1,000 boxes (and of 100 for masks). `nms` is of 1,000 boxes, and
`align` the grids of 1,000 boxes on the pyramid. Both sides are float32 with random weights, of the same sizes, one
image at a time, and each has a process of its own: ours with our flags of XLA. After a warm-up they take turns. Shown
are medians, and the median of the ratios within a round.

torchvision's operators are compiled for builds of torch that our tests do not have. So its side may be another Python:
an environment with torch 2.14.1 and torchvision 0.29.1.

The training step is that of `train.py` with `task = Detect()`, of 2 images with 8 objects each, and trains the whole
network by SGD. Its memory is by how much a process grows that builds the step and runs it three times. Ours compiles it
in that process, too. What XLA's compiled program needs is printed beside it, and the time of the third step. A head
for masks looks only at proposals that are to find an object: with random weights at few, in a trained network at more.
`--fg-iou 0` makes it 128 in each image, the most that there can be.

`--shares` profiles our detector and our step, and adds up the time of the kernels of each.
"""

import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a checkout that is not installed

import jax
import jax.numpy as jnp
import numpy as np
from device_profile import largest_kernels
from seat import Seat, start_apart

import resnet_jax as rn
from resnet_jax.config import AugmentConfig, Config, DataConfig, Detect, ModelConfig, OptimConfig
from resnet_jax.cost import speed
from resnet_jax.display import bytes_of
from resnet_jax.models.detect.two_stage import TwoStage
from resnet_jax.runtime.garbage import collect_seldom
from resnet_jax.runtime.mesh import make_mesh, put_batch, split_batch
from resnet_jax.runtime.xla_flags import set_xla_flags
from resnet_jax.tasks.assemble import assemble
from resnet_jax.tasks.detect.find import level_sizes, make_find, pool
from resnet_jax.tasks.detect.nms import nms
from resnet_jax.tasks.table import task_of

PARTS = ("whole", "network", "nms", "align")
SCOPES = ("nms", "roi_align")
PROPOSALS, DETECTIONS, OBJECTS = 1000, 100, 8
FG_IOU = 0.5
IMAGES = 10_000  # of the training set: the schedule needs a number
PEER = Path(__file__).with_name("detection_peer.py")


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
            features = model.apply(variables, grids[1], train=False, method="mask_features")
            said.append(model.apply(variables, features, jnp.arange(DETECTIONS) % 91, train=False, method="masks"))
        return said

    return compiled(network, variables, images, grids)


def compiled(function: Any, *arguments: Any) -> speed.Program:
    program, seconds = speed.compile_for(jax.jit(function), *arguments)
    launch = partial(program, *arguments)
    return speed.Program("ours", launch, 1, seconds, speed.peak_bytes(program), text=program.as_text)


def random_boxes(rng: np.random.Generator, height: int, width: int) -> jax.Array:
    """As many small as large ones, like those of `detection_peer.py`."""
    corner = rng.uniform(0, 0.9, (PROPOSALS, 2)) * [width, height]
    sides = np.exp(rng.uniform(0, 3.5, (PROPOSALS, 2)) + 2.5)
    return jnp.asarray(np.concatenate([corner, np.minimum(corner + sides, [width, height])], 1), jnp.float32)


def step(name: str, height: int, width: int, fg_iou: float) -> tuple[int, int | None, float]:
    """Bytes by which this process grows, what the compiled program needs, and seconds of the third step."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    program = step_program(name, height, width, fg_iou)
    took = [program.turn(1) for _ in range(3)][-1]
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before), program.peak_bytes, took


def step_program(name: str, height: int, width: int, fg_iou: float = FG_IOU) -> speed.Program:
    """The training step, in the process that will run it."""
    collect_seldom()
    set_xla_flags()
    canvas = (-(-height // 32) * 32, -(-width // 32) * 32)
    two_stage = {"box_fg_iou_thresh": fg_iou, "box_bg_iou_thresh": fg_iou} if "rcnn" in name else {}
    config = Config(
        model=ModelConfig(name=name, num_classes=91, zero_init_residual=False),
        task=Detect(min_size=(min(height, width),), max_size=max(height, width), **two_stage),
        data=DataConfig(
            name="synthetic", image_size=224, eval_resize=224, augment=AugmentConfig(random_resized_crop=False)
        ),
        optim=OptimConfig(weight_decay=1e-4, nesterov=False),
        batch_size=2,
    )
    mesh = make_mesh(jax.devices()[:1])
    training = assemble(config, task_of(config), mesh, num_images=IMAGES)
    batch = put_batch(examples(config.task, canvas, "maskrcnn" in name), split_batch(mesh))
    state = training.init_state(jax.random.key(0))
    compiled, seconds = speed.compile_for(training.train_step, state, batch)
    launch = speed.repeating(compiled, state, batch)
    return speed.Program("ours", launch, 2, seconds, speed.peak_bytes(compiled), text=compiled.as_text)


def find_program(name: str, height: int, width: int) -> speed.Program:
    """From a normalised image to the objects in it, in the process that will run it."""
    collect_seldom()
    set_xla_flags()
    model = rn.create_model(name)
    canvas = (-(-height // 32) * 32, -(-width // 32) * 32)
    images = jax.random.normal(jax.random.key(1), (1, *canvas, 3))
    sizes = jnp.asarray([[height, width]], jnp.int32)
    return compiled(make_find(model), rn.init(model, jax.random.key(0)), images, sizes)


def shares(make: Callable[[], speed.Program]) -> list[float]:
    """Of the time of all kernels, the share of those of each of `SCOPES`."""
    program = make()
    program.turn(1)
    # What calls others has no kind, and a time that is theirs.
    kernels = [kernel for kernel in largest_kernels(program, count=sys.maxsize) if kernel.kind]
    total = sum(kernel.milliseconds for kernel in kernels)
    # Also within what JAX has made of it, such as `transpose(jvp(roi_align))`.
    within = lambda scope: (one.milliseconds for one in kernels if re.search(rf"\b{scope}\b", one.source))
    return [sum(within(scope)) / total for scope in SCOPES]


def examples(task: Any, canvas: tuple[int, int], masks: bool) -> dict[str, np.ndarray]:
    """A batch of 2 images with 8 objects each, as `data.box_fills.TrainBoxes` writes it."""
    rng = np.random.default_rng(0)
    sides = np.array(canvas[::-1])
    corner = rng.uniform(0, 0.7, (2, OBJECTS, 2)) * sides
    boxes, classes = np.zeros((2, task.max_boxes, 4), np.float32), np.full((2, task.max_boxes), -1, np.int32)
    boxes[:, :OBJECTS] = np.concatenate([corner, corner + 0.2 * sides], -1)
    classes[:, :OBJECTS] = np.arange(OBJECTS) % 90 + 1
    batch = {
        "image": rng.integers(0, 256, (2, *canvas, 3), np.uint8),
        "size": np.array([canvas] * 2, np.int32),
        "boxes": boxes,
        "classes": classes,
    }
    if masks:
        batch["instances"] = np.ones((2, task.max_boxes, task.mask_size, task.mask_size), np.uint8)
    return batch


def show_shares(name: str, height: int, width: int) -> None:
    for what, program in (("inference of 1 image", find_program), ("training step of 2 images", step_program)):
        of_each = start_apart(partial(shares, partial(program, name, height, width))).answer()
        parts = ", ".join(f"{scope} {share:.1%}" for scope, share in zip(SCOPES, of_each, strict=True))
        print(f"{name}, {what}: {parts}", flush=True)


def compare_steps(name: str, height: int, width: int, fg_iou: float, python: str | None) -> None:
    ours, needed, seconds = start_apart(partial(step, name, height, width, fg_iou)).answer()
    text = f"{name}, training step of 2 images: ours {bytes_of(ours)} (compiled program {bytes_of(needed or 0)}), "
    text += f"{seconds:.1f} s"
    if python:
        command = [python, str(PEER), name, str(height), str(width), "step", str(fg_iou)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        theirs, their_seconds = int(said[-2]), float(said[-1])
        text += f"; torchvision {bytes_of(theirs)}, {their_seconds:.1f} s: ours has {ours / theirs:.2f} of its memory"
    print(text, flush=True)


class Peer:
    """torchvision's side, in a process of another Python."""

    def __init__(self, python: str, name: str, height: int, width: int):
        self._process = subprocess.Popen(
            [python, str(PEER), name, str(height), str(width)],
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
    parser.add_argument("--step", action="store_true", help="the training step instead: its memory, and its time")
    parser.add_argument(
        "--fg-iou", type=float, default=FG_IOU, help="from which overlap a proposal of --step has an object"
    )
    parser.add_argument("--shares", action="store_true", help="shares of the time instead, of ours alone")
    asked = parser.parse_args()
    height, width = asked.size
    print(f"{height} x {width} pixels, float32, {os.cpu_count()} cores, jax {jax.__version__}", flush=True)
    for name in asked.networks:
        if asked.step:
            compare_steps(name, height, width, asked.fg_iou, asked.torch_python)
        elif asked.shares:
            show_shares(name, height, width)
        else:
            compare(name, height, width, asked.rounds, asked.torch_python)


if __name__ == "__main__":
    main()
