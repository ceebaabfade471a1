"""ResNet-50 on ImageNet-1k in 600 epochs: procedure A1 of "ResNet strikes back".

    python train.py configs/recipes/rsb_a1_resnet50.py --workdir runs/rsb-a1

Source: Wightman et al. 2021 (arXiv:2110.00476), and timm's `train.py`.
Expected: 80.4 % top-1 (the paper); 80.38 % (timm, the weights resnet50.a1_in1k); 80.12 % in OpenMMLab's repetition. Not
run here.
Hours: 4.6 days on 4 V100 of 32 GB (the paper).
Differs: as rsb_a3_resnet50.py. The smoothing is that of Westlake-AI/openmixup's repetition. With the threshold, it only
moves what counts as a class: from a share of 0.2 of the mixture to one of 0.222.
"""

from dataclasses import replace
from pathlib import Path

from resnet_jax import load_config

a2 = load_config(Path(__file__).with_name("rsb_a2_resnet50.py"))
config = replace(
    a2,
    data=replace(a2.data, augment=replace(a2.data.augment, mixup_alpha=0.2)),
    task=replace(a2.task, label_smoothing=0.1),
    optim=replace(a2.optim, weight_decay=0.01),
    epochs=600.0,
)
