"""Segmentation on embedded data: 4,000 scenes of handwritten digits to train on and 500 to test, 96 x 96 pixels.

    python train.py configs/segment/digits.py

The classes are the background and the ten digits. The network is a U-Net over a residual network of 20 layers
(0.3 M parameters).
"""

from resnet_jax import AugmentConfig, CheckpointConfig, Config, DataConfig, ModelConfig, OptimConfig, Segment

config = Config(
    model=ModelConfig(name="unet_cifar_resnet20", num_classes=11),
    task=Segment(min_scale=0.9, max_scale=1.2),
    data=DataConfig(
        name="digit_scenes",
        image_size=96,
        eval_resize=96,
        augment=AugmentConfig(random_resized_crop=False, flip=False),  # a mirrored 2 is not a 2
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    ),
    optim=OptimConfig(
        base_lr=0.02,
        optimizer="adamw",
        weight_decay=1e-4,
        no_decay=(r"bn", r"norm", r"bias$", r"_1/"),
        schedule="cosine",
        warmup_epochs=0.2,
    ),
    checkpoint=CheckpointConfig(every_epochs=1.0),
    epochs=2.0,
    batch_size=32,
    eval_batch_size=64,
    log_every_steps=20,
)
