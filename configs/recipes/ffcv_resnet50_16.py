"""ResNet-50 on ImageNet-1k in 16 epochs: FFCV's quickest recipe.

    python train.py configs/recipes/ffcv_resnet50_16.py --workdir runs/ffcv-16

Source: libffcv/ffcv-imagenet, `train_imagenet.py` and `rn50_configs/rn50_16_epochs.yaml`.
Expected: 73.8 % top-1 and 90.8 % top-5 at 256 pixels, of the image and its mirror image (its README). Not run here.
Hours: 0.25 on 8 A100, without preparing the data (its README: 14.9 minutes).
Differs: in evaluation images are resized first and cropped afterwards, antialiased, and not by areas. bfloat16.
"""

from resnet_jax import AugmentConfig, Classify, Config, DataConfig, ModelConfig, OptimConfig, ramped_sizes

config = Config(
    model=ModelConfig(
        name="resnet50",
        antialias="before",
        zero_init_residual=False,
        bn_group_size=512,  # the images of a GPU
        dtype="bfloat16",
    ),
    data=DataConfig(
        name="tfds:imagenet2012",
        eval_split="validation",
        image_size=256,
        eval_crop_ratio=0.875,
        augment=AugmentConfig(train_size=160, resizes=ramped_sizes(160, 192, begin=11, end=13)),
    ),
    task=Classify(label_smoothing=0.1, eval_flip=True),
    optim=OptimConfig(
        base_lr=1.7 * 256 / 4096,
        weight_decay=1e-4,
        no_decay=(r"bn\d",),  # their rule goes by names, and finds no norm of a shortcut
        schedule="polynomial",
        power=1.0,
        warmup_epochs=2.0,
        warmup_start=1e-4,
        warmup_first=0,
    ),
    epochs=16.0,
    batch_size=4096,
    eval_batch_size=4096,
    log_every_steps=50,
)
