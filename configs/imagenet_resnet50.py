"""ResNet-50 on ImageNet-1k in 90 epochs: the recipe of He et al. 2015 as Goyal et al. 2017 (arXiv:1706.02677) run it.

    python train.py configs/imagenet_resnet50.py --workdir runs/resnet50

The data set is `imagenet2012`, prepared by TFDS as array_record (README, "Train on ImageNet"). What to expect:
torchvision's V1 weights, trained by nearly this recipe (no warm-up, a batch of 256), have 76.13 % top-1. Goyal et al.
report 76.4 %. This project has not yet run the recipe to the end.
"""

from resnet_jax import Config, DataConfig, ModelConfig, OptimConfig

config = Config(
    model=ModelConfig(
        name="resnet50",
        num_classes=1000,
        zero_init_residual=True,  # Goyal et al., section 5.1
        bn_group_size=32,  # Goyal et al. take statistics over the 32 images of a GPU
        dtype="bfloat16",
    ),
    data=DataConfig(name="tfds:imagenet2012", eval_split="validation", image_size=224, eval_resize=256),
    optim=OptimConfig(
        base_lr=0.1,  # for 256 images; it is scaled with the batch
        momentum=0.9,
        weight_decay=1e-4,
        no_decay=(r"bn",),
        schedule="step",
        drop_epochs=(30.0, 60.0, 80.0),
        warmup_epochs=5.0,
    ),
    epochs=90.0,
    batch_size=256,
    eval_batch_size=256,
    log_every_steps=100,
)
