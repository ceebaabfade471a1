"""Train on your own photographs, a few hundred or thousand, in a folder with a folder of images for each class.

    python -m resnet_jax data check folder:photos --holdout 0.2
    python train.py configs/photos.py --data.name folder:photos
    python train.py configs/photos.py --data.name folder:photos --start.weights IMAGENET1K_V1

The images are `photos/CLASS/*.jpg`. A fifth of each class, always the same images, measures how good the network is;
the others are trained on. If you have `photos/train/CLASS/*.jpg` and `photos/test/CLASS/*.jpg`, add `--data.holdout 0`.
The network has as many classes as the folder. A ResNet-18 that starts from random numbers needs far more images than
one that starts from published weights: expect little from a few hundred images.
Photographs are turned upright as their cameras wrote (`data.exif`).
"""

from resnet_jax import AugmentConfig, CheckpointConfig, Classify, Config, DataConfig, ModelConfig, OptimConfig

config = Config(
    model=ModelConfig(name="resnet18", num_classes=None),
    data=DataConfig(
        name="folder:photos",
        holdout=0.2,
        exif=True,
        image_size=224,
        eval_resize=256,
        augment=AugmentConfig(crop_min_area=0.25, brightness=0.2, contrast=0.2, saturation=0.2),
        max_broken_fraction=0.05,
    ),
    task=Classify(label_smoothing=0.1),
    optim=OptimConfig(
        base_lr=0.1,
        nesterov=True,
        weight_decay=5e-4,
        no_decay=(r"bn", r"bias$"),
        warmup_epochs=3.0,
    ),
    checkpoint=CheckpointConfig(every_epochs=5.0),
    epochs=60.0,
    batch_size=32,
    eval_batch_size=64,
    eval_every_epochs=5.0,
    log_every_steps=10,
)
