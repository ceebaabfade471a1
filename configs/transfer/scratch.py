"""The same network on your own images from random numbers: what the published weights are worth.

    python train.py configs/transfer/scratch.py --data.name folder:photos

The options are those of full.py.
"""

from dataclasses import replace
from pathlib import Path

from resnet_jax import Start, load_config

full = load_config(Path(__file__).with_name("full.py"))
config = replace(full, start=Start(), optim=replace(full.optim, base_lr=0.4))
