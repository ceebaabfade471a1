"""Videos on embedded data: 4,000 clips of a handwritten digit that moves, turns, grows or shrinks, and 800 to test.

python train.py configs/clips/digits.py
"""

from resnet_jax import AugmentConfig, CheckpointConfig, ClipConfig, Clips, Config, DataConfig, ModelConfig, OptimConfig

config = Config(
    model=ModelConfig(name="cifar_resnet20", stage_sizes=(1, 1, 1), num_classes=8, zero_init_residual=False),
    task=Clips(frames="lstm", hidden=64),
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
    eval_every_epochs=1.0,
    log_every_steps=50,
)
