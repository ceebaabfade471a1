"""Clips of digits as in digits.py, by a network for images on each frame and an LSTM that reads the frames in order.

    python train.py configs/clips/digits_lstm.py

docs/video.md says what it reaches.
"""

from resnet_jax import AugmentConfig, CheckpointConfig, ClipConfig, Clips, Config, DataConfig, ModelConfig, OptimConfig

config = Config(
    model=ModelConfig(
        name="resnet18", stage_sizes=(1, 1, 1), width_multiplier=0.25, num_classes=8, zero_init_residual=False
    ),
    # Where a digit lies counts, so the LSTM sees the last maps, 3 x 3, and not their mean.
    task=Clips(frames="lstm", hidden=64, grid=3),
    data=DataConfig(
        name="moving_digits",
        channels=1,
        image_size=40,
        eval_resize=40,
        clip=ClipConfig(frames=8, eval_clips=1),
        augment=AugmentConfig(random_resized_crop=False, flip=False),  # a mirrored clip is of another class
        mean=(0.25,),
        std=(0.25,),
    ),
    optim=OptimConfig(
        optimizer="adamw",
        base_lr=0.016,  # for 256 videos; this is 0.002 for 32
        weight_decay=1e-4,
        no_decay=(r"bn", r"bias$"),
        schedule="cosine",
        warmup_epochs=0.5,
    ),
    checkpoint=CheckpointConfig(every_epochs=4.0),
    epochs=8.0,
    batch_size=32,
    eval_batch_size=100,
    eval_every_epochs=2.0,
    log_every_steps=100,
)
