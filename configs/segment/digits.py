"""Segmentation on embedded data: 4,000 scenes of handwritten digits to train on and 500 to test, 96 x 96 pixels.

    python train.py configs/segment/digits.py

The classes are the background and the ten digits. The network is an FCN over ResNet-18 with half of its channels
(3 M parameters).
"""

from resnet_jax import AugmentConfig, CheckpointConfig, Config, DataConfig, ModelConfig, OptimConfig, Segment

config = Config(
    model=ModelConfig(name="fcn_resnet18", width_multiplier=0.5, num_classes=11, zero_init_residual=False),
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
        optimizer="adamw",
        base_lr=0.032,  # for 256 images; this is 0.002 for 16
        weight_decay=1e-4,
        no_decay=(r"bn", r"bias$", r"classifier/1/"),
        schedule="cosine",
        warmup_epochs=0.1,
    ),
    checkpoint=CheckpointConfig(every_epochs=2.0),
    epochs=5.0,
    batch_size=16,
    eval_batch_size=64,
    log_every_steps=50,
)
