"""ResNet-50 on ImageNet-1k in 88 epochs: FFCV's longest recipe.

    python train.py configs/recipes/ffcv_resnet50_88.py --workdir runs/ffcv-88

Source: libffcv/ffcv-imagenet, `train_imagenet.py` and `rn50_configs/rn50_88_epochs.yaml`.
Expected: 78.4 % top-1 and 94.1 % top-5 at 256 pixels, of the image and its mirror image (its README). Not run here.
Hours: 1.3 on 8 A100, without preparing the data (its README: 77.2 minutes).
Differs: as ffcv_resnet50_16.py.
"""

from dataclasses import replace
from pathlib import Path

from resnet_jax import load_config, ramped_sizes

short = load_config(Path(__file__).with_name("ffcv_resnet50_16.py"))
resizes = ramped_sizes(160, 192, begin=65, end=76)
config = replace(short, data=replace(short.data, augment=replace(short.data.augment, resizes=resizes)), epochs=88.0)
