"""Adapt published weights to your own images: only the head is trained (a linear probe, by gradient descent).

    python train.py configs/transfer/probe.py --start.weights IMAGENET1K_V2 --data.name folder:photos

The options are those of full.py. `python -m resnet_jax probe` computes the best head for features without augmentation,
without a rate to choose, and for several stages; this file gives a network that can be used like any other run.
"""

from dataclasses import replace
from pathlib import Path

from resnet_jax import load_config

full = load_config(Path(__file__).with_name("full.py"))
# A head alone is a convex problem: it needs neither a small rate nor decay.
config = replace(full, optim=replace(full.optim, level="head", base_lr=0.8, weight_decay=0.0))
