"""ResNet-50 on ImageNet-1k as it was first published: 600,000 updates with 256 images.

    python train.py configs/recipes/he2015_resnet50.py --workdir runs/he2015

Source: He et al. 2015 (arXiv:1512.03385), section 3.4.
Expected: 77.15 % top-1 and 93.29 % top-5 with ten crops (the paper, Table 3). The evaluation here is of one crop, and
gives less: He et al. 2018 (arXiv:1812.01187, Table 1) give 75.3 % for the authors' network. Not run here.
Hours: the paper gives none.
Differs: the paper divides the rate by 10 when the error no longer falls, and does not say when that was. The epochs 30,
60 and 90 are ours. Pixels are normalised by means and deviations of channels, not by a mean image. The noise on colours
is that of facebook/fb.resnet.torch. bfloat16. BatchNorm takes the statistics of groups of 32 images.
"""

from resnet_jax import AugmentConfig, Config, DataConfig, ModelConfig, OptimConfig

config = Config(
    model=ModelConfig(
        name="resnet50_v1",  # the first 1x1 convolution carries the stride
        zero_init_residual=False,
        bn_group_size=32,
        dtype="bfloat16",
    ),
    data=DataConfig(
        name="tfds:imagenet2012",
        eval_split="validation",
        augment=AugmentConfig(train_resize=(256, 480), lighting=0.1),
    ),
    optim=OptimConfig(
        base_lr=0.1,
        weight_decay=1e-4,  # of all parameters
        schedule="step",
        drop_epochs=(30.0, 60.0, 90.0),
        warmup_epochs=0.0,
    ),
    epochs=120.0,
    batch_size=256,
    eval_batch_size=256,
    log_every_steps=100,
)
