"""A small, quick network for Fashion-MNIST that learns from a larger one: the run of configs/fashion.py.

    python train.py configs/fashion.py --data.name idx:PATH --epochs 6 --workdir runs/fashion
    python train.py configs/distil.py --data.name idx:PATH --workdir runs/small
    python train.py configs/distil.py --data.name idx:PATH --distil.teacher "" --workdir runs/alone

PATH is the folder of the data, such as /usr/share/datasets/fashion-mnist. The last line trains the same network without
a teacher. docs/compress.md says what a teacher gives where there are few labels (benchmarks/distil.py).
"""

from dataclasses import replace
from pathlib import Path

from resnet_jax import Distil, ModelConfig, load_config

fashion = load_config(Path(__file__).with_name("fashion.py"))
config = replace(
    fashion,
    # Its first convolution and its pool leave 8x8 maps: a fortieth of the arithmetic of the teacher.
    model=ModelConfig(name="resnet18", stage_sizes=(1, 1, 1), width_multiplier=0.25, num_classes=10),
    distil=Distil(teacher="runs/fashion", alpha=0.9, temperature=4.0),
    epochs=6.0,
    batch_size=64,
    eval_every_epochs=6.0,
    checkpoint=replace(fashion.checkpoint, every_epochs=6.0),
)
