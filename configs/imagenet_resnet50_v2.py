"""ResNet-50 on ImageNet-1k in 600 epochs: torchvision's second recipe (its references' `README`, "new recipe").

    python train.py configs/imagenet_resnet50_v2.py --workdir runs/resnet50-v2

What to expect: torchvision's V2 weights have 80.86 % top-1. The differences from their recipe are small: the learning
rate moves with every step and not every epoch, warm-up starts from 0 and not from a hundredth, and images are flipped
after TrivialAugment and not before, which has the same distribution. This project has not yet run it to the end.
"""

from resnet_jax import AugmentConfig, Classify, Config, DataConfig, ModelConfig, OptimConfig

config = Config(
    model=ModelConfig(
        name="resnet50",
        num_classes=1000,
        zero_init_residual=False,
        bn_group_size=128,  # one GPU's batch: theirs is 8 x 128
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
            mix_group_size=128,  # they, too, mix within one GPU's batch
        ),
    ),
    task=Classify(label_smoothing=0.1),
    optim=OptimConfig(
        base_lr=0.125,  # 0.5 for 1024 images
        momentum=0.9,
        weight_decay=2e-5,
        no_decay=(r"bn",),
        schedule="cosine",
        warmup_epochs=5.0,
        ema_decay=0.99998,
        ema_every_steps=32,
    ),
    epochs=600.0,
    batch_size=1024,
    eval_batch_size=1024,
    log_every_steps=100,
)
