"""ResNet-50 on ImageNet-1k in 600 epochs: torchvision's second recipe (its references' `README`, "new recipe").

    python train.py configs/imagenet_resnet50_v2.py --workdir runs/resnet50-v2

What to expect: torchvision's V2 weights have 80.86 % top-1. This config differs from their recipe in one way: images
are flipped after TrivialAugment, not before it, which has the same distribution. This project has not yet run the
recipe to the end.
"""

from resnet_jax import AugmentConfig, Classify, Config, DataConfig, ModelConfig, OptimConfig

config = Config(
    model=ModelConfig(
        name="resnet50",
        num_classes=1000,
        zero_init_residual=False,
        bn_group_size=128,  # the batch of one GPU: torchvision's batch is 8 x 128
        dtype="bfloat16",
    ),
    data=DataConfig(
        name="tfds:imagenet2012",
        eval_split="validation",
        image_size=224,
        eval_resize=232,
        repeats=4,
        augment=AugmentConfig(
            train_size=176,
            policy="trivial_augment_wide",
            erase_probability=0.1,
            mixup_alpha=0.2,
            cutmix_alpha=1.0,
            mix_group_size=128,  # torchvision mixes within the batch of one GPU
        ),
    ),
    task=Classify(label_smoothing=0.1),
    optim=OptimConfig(
        base_lr=0.125,  # for 256 images; this is 0.5 for 1024
        momentum=0.9,
        weight_decay=2e-5,
        no_decay=(r"bn",),
        schedule="cosine",
        rate_moves="epoch",
        warmup_epochs=5.0,
        warmup_start=0.01,
        warmup_first=0,
        ema_decay=0.99998,
        ema_every_steps=32,
    ),
    epochs=600.0,
    batch_size=1024,
    eval_batch_size=1024,
    log_every_steps=100,
)
