"""ResNet-152 on ImageNet-1k in 90 epochs: the recipe of `imagenet_resnet50.py` with a batch of 1024.

    python train.py configs/imagenet_resnet152.py --workdir runs/resnet152

Meant for a pod slice or a box of GPUs: with `bn_group_size = 32` the same config gives the same training on 1 to 32
devices. What to expect: torchvision's V1 weights, trained by nearly this recipe (no warm-up, a batch of 256), have
78.31 % top-1. This project has not yet run it to the end.
"""

from resnet_jax import Config, DataConfig, ModelConfig, OptimConfig

config = Config(
    model=ModelConfig(
        name="resnet152",
        num_classes=1000,
        zero_init_residual=True,
        bn_group_size=32,
        dtype="bfloat16",
    ),
    data=DataConfig(name="tfds:imagenet2012", eval_split="validation", image_size=224, eval_resize=256),
    optim=OptimConfig(
        base_lr=0.1,
        momentum=0.9,
        weight_decay=1e-4,
        no_decay=(r"bn",),
        schedule="step",
        drop_epochs=(30.0, 60.0, 80.0),
        warmup_epochs=5.0,
    ),
    epochs=90.0,
    batch_size=1024,
    eval_batch_size=1024,
    log_every_steps=100,
)
