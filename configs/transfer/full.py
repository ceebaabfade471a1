"""Adapt published weights to your own images: all layers are trained (full fine-tuning).

    python train.py configs/transfer/full.py --start.weights IMAGENET1K_V2 --data.name folder:photos

`photos/CLASS/*.jpg` are your images; a fifth of each class, always the same files, measures how good the network is. If
you have `photos/train` and `photos/test`, or another data set, add `--data.holdout 0`. The head is made new, with as
many classes as the data has. `start.weights` is the name of a published set, a weight file, a repository of the hub, or
the folder of a run. The other files of this folder train less of the network, or start from nothing; docs/transfer.md
says which to take.
"""

from resnet_jax import AugmentConfig, CheckpointConfig, Config, DataConfig, ModelConfig, OptimConfig, Start

config = Config(
    model=ModelConfig(name="resnet50", num_classes=None),
    start=Start(weights="IMAGENET1K_V2"),
    data=DataConfig(
        name="folder:photos",
        holdout=0.2,
        exif=True,
        image_size=224,
        eval_resize=256,
        augment=AugmentConfig(crop_min_area=0.25),
        max_broken_fraction=0.05,
    ),
    optim=OptimConfig(
        base_lr=0.08,  # for 256 images; this is 0.01 for 32
        nesterov=True,
        weight_decay=1e-4,
        no_decay=(r"bn", r"bias$"),
        warmup_epochs=1.0,
    ),
    checkpoint=CheckpointConfig(every_epochs=5.0),
    epochs=20.0,
    batch_size=32,
    eval_batch_size=64,
    log_every_steps=10,
)
