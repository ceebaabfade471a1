"""Adapt published weights to your own images: the last block and the head are trained, the rest stays as it is.

    python train.py configs/transfer/last_block.py --start.weights IMAGENET1K_V2 --data.name folder:photos

The options are those of full.py. BatchNorm of the frozen part normalises with its running statistics, which do not
change (`optim.frozen_statistics`).
"""

from dataclasses import replace
from pathlib import Path

from resnet_jax import load_config

full = load_config(Path(__file__).with_name("full.py"))
config = replace(full, optim=replace(full.optim, level="last_block"))
