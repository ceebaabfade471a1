"""As cifar10_resnet152_full.py, but only the head is trained, on a network of random numbers.

python train.py configs/transfer/cifar10_resnet152_scratch_probe.py
"""

from dataclasses import replace
from pathlib import Path

from resnet_jax import Start, load_config

probe = load_config(Path(__file__).with_name("cifar10_resnet152_probe.py"))
config = replace(probe, start=Start())
