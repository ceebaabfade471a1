"""Segmentation of real images: the cell nuclei of one microscopy image, cut into 12 squares to train on and 4 to test.

    pip download stardist --no-deps            # 3 MB; BSD licence
    python examples/nuclei.py stardist-*.whl nuclei
    python train.py configs/segment/nuclei.py

The classes are the background and the nucleus. Twelve squares are enough, since each of their pixels is an example.
"""

from resnet_jax import AugmentConfig, CheckpointConfig, Config, DataConfig, ModelConfig, OptimConfig, Segment

config = Config(
    model=ModelConfig(
        name="fcn2s_resnet18",
        stage_sizes=(2, 2, 2),
        output_stride=8,
        width_multiplier=0.5,
        num_classes=2,
        zero_init_residual=False,
    ),
    task=Segment(min_scale=0.75, max_scale=1.5),
    data=DataConfig(
        name="pairs:nuclei",
        image_size=128,
        eval_resize=128,
        augment=AugmentConfig(random_resized_crop=False, flip=True),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    ),
    optim=OptimConfig(
        optimizer="adamw",
        base_lr=0.128,  # for 256 images; this is 0.004 for 8
        weight_decay=1e-4,
        no_decay=(r"bn", r"bias$", r"classifier/1/"),
        schedule="cosine",
        warmup_epochs=5.0,
    ),
    checkpoint=CheckpointConfig(every_epochs=50.0),
    epochs=150.0,
    eval_every_epochs=25.0,
    batch_size=8,
    eval_batch_size=4,
    log_every_steps=20,
)
