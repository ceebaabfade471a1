"""As cifar10_resnet152_full.py, but only the last block and the head are trained.

python train.py configs/transfer/cifar10_resnet152_last_block.py
"""

from dataclasses import replace
from pathlib import Path

from resnet_jax import load_config

full = load_config(Path(__file__).with_name("cifar10_resnet152_full.py"))
config = replace(full, optim=replace(full.optim, level="last_block"))
