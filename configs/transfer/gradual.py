"""Adapt published weights to your own images: at first only the head, then more and more of the network.

    python train.py configs/transfer/gradual.py --start.weights IMAGENET1K_V2 --data.name folder:photos

The options are those of full.py. A new head sends large gradients into the network. So the network is frozen while the
head is new. Earlier blocks also have smaller rates (`optim.layer_decay`).
"""

from dataclasses import replace
from pathlib import Path

from resnet_jax import Unfreeze, load_config

full = load_config(Path(__file__).with_name("full.py"))
phases = (
    Unfreeze(epoch=3.0, level="last_block"),
    Unfreeze(epoch=6.0, level="last_stage"),
    Unfreeze(epoch=10.0, level="all"),
)
config = replace(full, optim=replace(full.optim, level="head", unfreeze=phases, layer_decay=0.9))
