"""R(2+1)D-18 on Kinetics-400, with the recipe of torchvision's published weights (references/video_classification).

    python train.py configs/clips/kinetics400_r2plus1d_18.py --data.name kinetics:PATH

torchvision trains on 64 GPUs with 24 clips each: a batch of 1,536 at a rate of 0.64, 45 epochs, in which a video gives
up to five clips. Here an epoch sees each video once, so five times as many epochs see about as many clips.
"""

from resnet_jax import AugmentConfig, CheckpointConfig, ClipConfig, Clips, Config, DataConfig, ModelConfig, OptimConfig

config = Config(
    # Statistics of 24 clips, those of one GPU in the original.
    model=ModelConfig(name="r2plus1d_18", num_classes=400, zero_init_residual=False, bn_group_size=24),
    task=Clips(),
    data=DataConfig(
        name="kinetics:/data/kinetics400",
        eval_split="val",
        image_size=112,
        eval_resize=128,
        clip=ClipConfig(
            frames=16, rate=15.0, eval_clips=5, train_resize=(128, 171), eval_resize=(128, 171), antialias=False
        ),
        augment=AugmentConfig(random_resized_crop=False, flip=True),
        mean=(0.43216, 0.394666, 0.37645),
        std=(0.22803, 0.22145, 0.216989),
    ),
    optim=OptimConfig(
        base_lr=0.64 / 6,  # for 256 clips; this is 0.64 for 1,536
        weight_decay=1e-4,
        schedule="step",
        drop_epochs=(100.0, 150.0, 200.0),
        warmup_epochs=50.0,  # 10 of 45
    ),
    checkpoint=CheckpointConfig(every_epochs=5.0),
    epochs=225.0,  # 45 of five clips of each video
    batch_size=1536,
    eval_batch_size=64,
    eval_every_epochs=5.0,
)
