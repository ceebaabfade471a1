"""What a training step costs where only a part of the network is trained, beside the step that trains all of it.

    python benchmarks/transfer.py                                    # ResNet-152, 224 pixels, batch 32, float32
    python benchmarks/transfer.py --model resnet50 --batch-size 16 --rounds 5

The steps are those of `train.py` with `optim.level`. They take turns, and the medians are shown. Memory is what XLA's
compiled programs need: state, batch, activations and scratch. The state holds the optimizer's momentum of what is
trained.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a checkout that is not installed

import jax
import numpy as np
from rich.table import Table

from resnet_jax.config import Config, DataConfig, ModelConfig, OptimConfig
from resnet_jax.cost import speed
from resnet_jax.display import bytes_of, plain_console
from resnet_jax.runtime.mesh import make_mesh, put_batch, split_batch
from resnet_jax.runtime.xla_flags import set_xla_flags
from resnet_jax.tasks.assemble import assemble
from resnet_jax.tasks.table import task_of

LEVELS = ("all", "last_stage", "last_block", "head")
IMAGES = 50_000  # of the training set: the schedule needs a number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet152")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    set_xla_flags()  # as train.py does
    programs = [build(level, asked) for level in LEVELS]
    seconds = speed.time_in_turns({program.name: program.turn for program in programs}, asked.rounds)
    table = Table(title=f"{asked.model}, {asked.batch_size} images of {asked.image_size} pixels, {asked.dtype}")
    for column in ("level", "seconds", "of all", "memory", "of all"):
        table.add_column(column, justify="left" if column == "level" else "right")
    whole = programs[0]
    for program in programs:
        name, memory = program.name, program.peak_bytes or 0
        times = f"{seconds[name]:.2f}", f"{seconds[name] / seconds['all']:.2f}"
        table.add_row(name, *times, bytes_of(memory), f"{memory / (whole.peak_bytes or 1):.2f}")
    plain_console().print(table)


def build(level: str, asked: argparse.Namespace) -> speed.Program:
    config = Config(
        model=ModelConfig(name=asked.model, num_classes=10, dtype=asked.dtype),
        data=DataConfig(name="synthetic", image_size=asked.image_size, eval_resize=asked.image_size),
        optim=OptimConfig(level=level),
        batch_size=asked.batch_size,
    )
    mesh = make_mesh(jax.devices()[:1])
    training = assemble(config, task_of(config), mesh, num_images=IMAGES)
    rng = np.random.default_rng(0)
    shape = (asked.batch_size, asked.image_size, asked.image_size, 3)
    rows = {
        "image": rng.integers(0, 256, shape, np.uint8),
        "label": rng.integers(0, 10, asked.batch_size).astype(np.int32),
    }
    state = training.init_state(jax.random.key(0))
    batch = put_batch(rows, split_batch(mesh))
    compiled, seconds = speed.compile_for(training.train_step, state, batch)
    launch = speed.repeating(compiled, state, batch)
    return speed.Program(level, launch, asked.batch_size, seconds, speed.peak_bytes(compiled))


if __name__ == "__main__":
    main()
