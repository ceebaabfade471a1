"""Videos on embedded data: 4,000 clips of a handwritten digit that moves in one of 8 directions, and 800 to test.

    python train.py configs/clips/digits.py

The network is a small ResNet of 8 layers whose convolutions have an axis of time. A single frame does not show where
the digit goes. configs/clips/digits_lstm.py looks at each frame alone, with an LSTM over time.
"""

from resnet_jax import AugmentConfig, CheckpointConfig, ClipConfig, Clips, Config, DataConfig, ModelConfig, OptimConfig

config = Config(
    model=ModelConfig(
        name="resnet18",
        time="3d",
        stage_sizes=(1, 1, 1),
        width_multiplier=0.25,
        num_classes=8,
        zero_init_residual=False,
    ),
    task=Clips(),
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
        base_lr=0.032,  # for 256 videos; this is 0.004 for 32
        weight_decay=1e-4,
        no_decay=(r"bn", r"bias$"),
        schedule="cosine",
        warmup_epochs=0.25,
    ),
    checkpoint=CheckpointConfig(every_epochs=2.0),
    epochs=4.0,
    batch_size=32,
    eval_batch_size=100,
    eval_every_epochs=1.0,
    log_every_steps=25,
)
