"""As cifar10_resnet152_full.py, but only the head is trained.

python train.py configs/transfer/cifar10_resnet152_probe.py
"""

from dataclasses import replace
from pathlib import Path

from resnet_jax import load_config

full = load_config(Path(__file__).with_name("cifar10_resnet152_full.py"))
config = replace(full, optim=replace(full.optim, level="head", base_lr=0.4, weight_decay=0.0))
