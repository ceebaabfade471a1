"""RetinaNet on real images: the crowns of trees in aerial photographs, 54 squares to train on and 16 to test.

    pip download deepforest --no-deps            # 21 MB; MIT licence
    python examples/trees.py deepforest-*.whl trees
    python train.py configs/detect/trees.py

A small network from random variables, so that it trains in minutes on two cores. The classes are the background and the
tree. A square has up to 36 crowns of 8 to 103 pixels. One run (seed 0, 2026-11-30) reached 15.1 % box AP and 44.8 % box
AP50 on the test squares.
"""

from resnet_jax import AugmentConfig, CheckpointConfig, Config, DataConfig, Detect, ModelConfig, OptimConfig

config = Config(
    model=ModelConfig(
        name="retinanet_resnet18_fpn",
        stage_sizes=(2, 2, 2),
        width_multiplier=0.5,
        num_classes=2,
        zero_init_residual=False,
    ),
    task=Detect(
        min_size=(320,),
        max_size=320,
        jitter=(0.75, 1.4),
        canvas=320,
        max_boxes=50,
        pyramid_width=64,
        head_convs=2,
        levels=(2, 3),
        anchor_sizes=((17.0, 24.0), (34.0, 48.0), (64.0, 80.0), (96.0, 120.0)),
    ),
    data=DataConfig(
        name="boxes:trees",
        augment=AugmentConfig(random_resized_crop=False, flip=True, brightness=0.2, contrast=0.2, saturation=0.2),
        mean=(0.52, 0.57, 0.48),
        std=(0.23, 0.21, 0.16),
    ),
    optim=OptimConfig(
        optimizer="adamw",
        base_lr=0.032,  # for 256 images; this is 0.001 for 8
        weight_decay=1e-4,
        no_decay=(r"bn", r"bias$"),
        schedule="cosine",
        warmup_epochs=4.0,
        clip_norm=5.0,
    ),
    checkpoint=CheckpointConfig(every_epochs=20.0),
    epochs=80.0,
    eval_every_epochs=20.0,
    batch_size=8,
    eval_batch_size=8,
    log_every_steps=20,
)
