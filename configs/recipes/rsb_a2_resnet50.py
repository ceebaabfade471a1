"""ResNet-50 on ImageNet-1k in 300 epochs: procedure A2 of "ResNet strikes back".

    python train.py configs/recipes/rsb_a2_resnet50.py --workdir runs/rsb-a2

Source: Wightman et al. 2021 (arXiv:2110.00476), and timm's `train.py`.
Expected: 79.83 % top-1 (timm, the weights resnet50.a2_in1k); 79.55 % in OpenMMLab's repetition. Not run here.
Hours: half of A1's, by its epochs: about 55 on 4 V100 of 32 GB.
Differs: as rsb_a3_resnet50.py.
"""

from dataclasses import replace
from pathlib import Path

from resnet_jax import load_config

PEAK = 5e-3

a3 = load_config(Path(__file__).with_name("rsb_a3_resnet50.py"))
config = replace(
    a3,
    model=replace(a3.model, stochastic_depth=0.05),
    data=replace(a3.data, repeats=3, augment=replace(a3.data.augment, train_size=0, rand_magnitude=7)),
    optim=replace(a3.optim, base_lr=PEAK * 256 / 2048, end_factor=1e-6 / PEAK, warmup_start=1e-4 / PEAK),
    epochs=300.0,
)
