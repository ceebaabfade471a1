"""UCF101 by an LSTM over the features of a frozen ResNet-50, in the manner of LRCN (Donahue et al. 2015).

    python train.py configs/clips/ucf101_resnet50_lstm.py --data.name ucf101:PATH

The network below was trained on ImageNet and stays as it is. Each video is seen by one clip of 16 frames out of equal
parts of it, always the same, so the features are computed once and kept in the cache folder.
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
    model=ModelConfig(name="resnet50", num_classes=101),
    start=Start(weights="IMAGENET1K_V2"),
    task=Clips(frames="lstm", hidden=512, dropout=0.5, fixed_clips=True),
    data=DataConfig(
        name="ucf101:/data/UCF-101",
        image_size=224,
        eval_resize=232,
        clip=ClipConfig(frames=16, sampling="uniform", eval_clips=1),
        augment=AugmentConfig(random_resized_crop=False, flip=False),
    ),
    optim=OptimConfig(
        optimizer="adamw",
        base_lr=0.002,  # for 256 videos; this is 0.0005 for 64
        weight_decay=1e-2,
        no_decay=(r"bias$",),
        schedule="cosine",
        warmup_epochs=1.0,
        level="head",
    ),
    checkpoint=CheckpointConfig(every_epochs=5.0),
    epochs=30.0,
    batch_size=64,
    eval_batch_size=16,
)
