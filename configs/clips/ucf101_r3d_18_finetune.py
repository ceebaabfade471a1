"""R3D-18 from torchvision's Kinetics-400 weights, trained further on UCF101.

    python train.py configs/clips/ucf101_r3d_18_finetune.py --data.name ucf101:PATH

The last layer is made new. The other layers learn more slowly the nearer they are to the video (`layer_decay`).
"""

from resnet_jax import (
    AugmentConfig,
    CheckpointConfig,
    ClipConfig,
    Clips,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    Start,
)

config = Config(
    model=ModelConfig(name="r3d_18", num_classes=101, zero_init_residual=False, bn_group_size=8),
    start=Start(weights="KINETICS400_V1"),
    task=Clips(label_smoothing=0.1),
    data=DataConfig(
        name="ucf101:/data/UCF-101",
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
        base_lr=0.04,  # for 256 clips; this is 0.01 for 64
        weight_decay=1e-4,
        schedule="cosine",
        warmup_epochs=2.0,
        layer_decay=0.7,
    ),
    checkpoint=CheckpointConfig(every_epochs=5.0),
    epochs=30.0,
    batch_size=64,
    eval_batch_size=32,
)
