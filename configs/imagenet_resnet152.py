"""ResNet-152 on ImageNet-1k in 90 epochs: the recipe of `imagenet_resnet50.py` with a batch of 1024.

    python train.py configs/imagenet_resnet152.py --workdir runs/resnet152

The config is meant for a pod slice or a box of GPUs. With `bn_group_size = 32` it gives the same training on 1 to 32
devices. What to expect: torchvision's V1 weights, trained by nearly this recipe (no warm-up, a batch of 256), have
78.31 % top-1. This project has not yet run the recipe to the end.
"""

from dataclasses import replace
from pathlib import Path

from resnet_jax import load_config

base = load_config(Path(__file__).with_name("imagenet_resnet50.py"))

config = replace(base, model=replace(base.model, name="resnet152"), batch_size=1024, eval_batch_size=1024)
