"""A small network for Fashion-MNIST that learns from a larger one: the run of configs/fashion.py.

    python train.py configs/fashion.py --data.name idx:PATH --epochs 6 --workdir runs/fashion
    python train.py configs/distil.py --data.name idx:PATH --workdir runs/small
    python train.py configs/distil.py --data.name idx:PATH --distil.teacher "" --workdir runs/alone

PATH is the folder of the data, such as /usr/share/datasets/fashion-mnist. The last line trains the same network without
a teacher. docs/deploy.md says what each reaches.
"""

from dataclasses import replace
from pathlib import Path

from resnet_jax import Distil, load_config

fashion = load_config(Path(__file__).with_name("fashion.py"))
config = replace(
    fashion,
    model=replace(fashion.model, stage_sizes=(1, 1, 1), width_multiplier=0.5),
    distil=Distil(teacher="runs/fashion", alpha=0.9, temperature=4.0),
    epochs=1.0,
    optim=replace(fashion.optim, warmup_epochs=0.25),
)
