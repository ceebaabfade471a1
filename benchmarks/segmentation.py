"""Networks for segmentation beside torchvision's, eager and channels_last, in one run and in turns.

    python benchmarks/segmentation.py                                       # 520 pixels, both networks over ResNet-50
    python benchmarks/segmentation.py --networks deeplabv3_resnet50 --size 321 --rounds 9
    python benchmarks/segmentation.py --memory                              # peak memory of the training step alone

Forward is the pass in evaluation to both maps of logits, of one image. The training step is that of `train.py` with
`task = Segment()`, without changes of colour: cross-entropy of the logits and half of the auxiliary one's, gradients,
SGD with momentum and weight decay. PyTorch's has the same losses and the same optimizer. A tenth of the pixels have no
class. Both are float32 and have 21 classes, and each has a process of its own: ours with our flags of XLA. After a
warm-up they take turns. Shown are medians, and the median of the ratios within a round.

Peak memory is by how much a process grows that builds the step and runs it three times. Ours compiles it in that
process, too. What XLA's compiled program needs is printed beside it.
"""

import argparse
import os
import resource
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a checkout that is not installed

import jax
import numpy as np
from seat import Seat, start_apart
from torch_peer import import_torchvision

from resnet_jax.config import AugmentConfig, Config, DataConfig, ModelConfig, OptimConfig, Segment
from resnet_jax.cost import speed
from resnet_jax.display import bytes_of
from resnet_jax.models import create_model
from resnet_jax.runtime.garbage import collect_seldom
from resnet_jax.runtime.mesh import make_mesh, put_batch, split_batch
from resnet_jax.runtime.xla_flags import set_xla_flags
from resnet_jax.tasks.assemble import assemble
from resnet_jax.tasks.table import task_of

CLASSES, IGNORED = 21, 255
IMAGES = 10_000  # of the training set: the schedule needs a number


def build(side: str, name: str, size: int, batch_size: int, train: bool) -> speed.Program:
    """A program, in the process that will run it."""
    make = {"ours": (ours_forward, ours_step), "torchvision": (torch_forward, torch_step)}[side][train]
    return make(name, size, batch_size)


def ours_forward(name: str, size: int, batch_size: int) -> speed.Program:
    begin_as_train_does()
    model = create_model(name, num_classes=CLASSES)
    images, _ = speed.synthetic_batch(batch_size, size, 3, CLASSES)
    return speed.forward_program(model, images, "ours")


def ours_step(name: str, size: int, batch_size: int) -> speed.Program:
    begin_as_train_does()
    config = Config(
        model=ModelConfig(name=name, num_classes=CLASSES, zero_init_residual=False),
        task=Segment(),
        data=DataConfig(
            name="synthetic", image_size=size, eval_resize=size, augment=AugmentConfig(random_resized_crop=False)
        ),
        optim=OptimConfig(weight_decay=1e-4, nesterov=False),
        batch_size=batch_size,
    )
    mesh = make_mesh(jax.devices()[:1])
    training = assemble(config, task_of(config), mesh, num_images=IMAGES)
    images, masks = examples(size, batch_size)
    state = training.init_state(jax.random.key(0))
    batch = put_batch({"image": images, "mask": masks}, split_batch(mesh))
    compiled, seconds = speed.compile_for(training.train_step, state, batch)
    launch = speed.repeating(compiled, state, batch)
    return speed.Program("ours", launch, batch_size, seconds, speed.peak_bytes(compiled))


def begin_as_train_does() -> None:
    collect_seldom()
    set_xla_flags()


def torch_forward(name: str, size: int, batch_size: int) -> speed.Program:
    import torch

    network = torch_network(name).eval()
    images = torch.randn(batch_size, 3, size, size).to(memory_format=torch.channels_last)

    def launch() -> Any:
        with torch.inference_mode():
            return network(images)

    return speed.Program("torchvision", launch, batch_size, wait=lambda out: out)


def torch_step(name: str, size: int, batch_size: int) -> speed.Program:
    import torch

    network = torch_network(name).train()
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9, weight_decay=1e-4)
    pixels, classes = examples(size, batch_size)
    images = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32) / 128 - 1)
    images = images.to(memory_format=torch.channels_last)
    masks = torch.from_numpy(classes.astype(np.int64))

    def launch() -> Any:
        optimizer.zero_grad(set_to_none=True)
        entropy = partial(torch.nn.functional.cross_entropy, target=masks, ignore_index=IGNORED)
        logits = network(images)
        loss = entropy(logits["out"]) + 0.5 * entropy(logits["aux"])
        loss.backward()
        optimizer.step()
        return loss

    return speed.Program("torchvision", launch, batch_size, wait=lambda out: out)


def torch_network(name: str) -> Any:
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    models = import_torchvision().models
    network = models.get_model(name, weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True)
    return network.to(memory_format=torch.channels_last)


def examples(size: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and masks of uint8."""
    rng = np.random.default_rng(0)
    masks = rng.integers(0, CLASSES, (batch_size, size, size), np.uint8)
    masks[rng.random(masks.shape) < 0.1] = IGNORED
    return rng.integers(0, 256, (batch_size, size, size, 3), np.uint8), masks


def grown(side: str, name: str, size: int, batch_size: int) -> tuple[int, int | None]:
    """Bytes by which this process grows, and what the compiled program needs, if XLA made it."""
    if side == "torchvision":
        import_torchvision()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    program = build(side, name, size, batch_size, train=True)
    program.turn(3)
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before), program.peak_bytes


def compare_memory(name: str, size: int, batch_size: int) -> None:
    found = {
        side: start_apart(partial(grown, side, name, size, batch_size)).answer() for side in ("ours", "torchvision")
    }
    (ours, compiled), (theirs, _) = found["ours"], found["torchvision"]
    print(
        f"{name}, training step, batch {batch_size}: memory: ours {bytes_of(ours)} (compiled program "
        f"{bytes_of(compiled or 0)}), torchvision {bytes_of(theirs)}: {ours / theirs:.2f} of it",
        flush=True,
    )


def compare_speed(name: str, size: int, batch_size: int, train: bool, rounds: int) -> None:
    seats = {side: Seat(partial(build, side, name, size, batch_size, train)) for side in ("ours", "torchvision")}
    times: dict[str, list[float]] = {side: [] for side in seats}
    try:
        for seat in seats.values():
            seat.ready()
        for i in range(rounds + 1):
            for side, seat in seats.items():
                seconds = seat.turn(1)
                if i:  # the first round is a warm-up
                    times[side].append(seconds)
    finally:
        for seat in seats.values():
            seat.leave()
    ours, theirs = (1e3 * statistics.median(times[side]) for side in ("ours", "torchvision"))
    ratios = [b / a for a, b in zip(times["ours"], times["torchvision"], strict=True)]
    print(
        f"{name}, {'training step' if train else 'forward pass'}, batch {batch_size}: ours {ours:,.0f} ms (compiled in "
        f"{seats['ours'].compile_seconds:.1f} s), torchvision {theirs:,.0f} ms: "
        f"{statistics.median(ratios):.2f}x as fast ({min(ratios):.2f} to {max(ratios):.2f})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["fcn_resnet50", "deeplabv3_resnet50"])
    parser.add_argument("--size", type=int, default=520)
    parser.add_argument("--batch-size", type=int, default=2, help="of the training step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--modes", nargs="+", choices=("forward", "train"), default=["forward", "train"])
    parser.add_argument("--memory", action="store_true", help="measure memory, and no speed")
    asked = parser.parse_args()
    print(f"{asked.size} pixels, float32, {CLASSES} classes, {os.cpu_count()} cores, jax {jax.__version__}", flush=True)
    for name in asked.networks:
        if asked.memory:
            compare_memory(name, asked.size, asked.batch_size)
            continue
        for mode in asked.modes:
            train = mode == "train"
            compare_speed(name, asked.size, asked.batch_size if train else 1, train, asked.rounds)


if __name__ == "__main__":
    main()
