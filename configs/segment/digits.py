"""Segmentation on embedded data: 4,000 scenes of handwritten digits to train on and 500 to test, 96 x 96 pixels.

    python train.py configs/segment/digits.py

The classes are the background and the ten digits. The network is an FCN over the first three stages of a small ResNet
(0.35 M parameters). Digits are 12 to 40 pixels large, so the last maps keep a stride of 8, and maps of strides 4 and 2
add their scores.
"""

from resnet_jax import AugmentConfig, CheckpointConfig, Config, DataConfig, ModelConfig, OptimConfig, Segment

config = Config(
    model=ModelConfig(
        name="fcn2s_resnet18",
        stage_sizes=(1, 1, 1),
        output_stride=8,
        width_multiplier=0.5,
        num_classes=11,
        zero_init_residual=False,
    ),
    # The background is 88 % of the pixels. It counts a little less, so that classes are learnt sooner.
    task=Segment(min_scale=0.85, max_scale=1.25, class_weights=(0.7, *(1.0,) * 10)),
    data=DataConfig(
        name="digit_scenes",
        image_size=96,
        eval_resize=96,
        augment=AugmentConfig(random_resized_crop=False, flip=False),  # a mirrored 2 is not a 2
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    ),
    optim=OptimConfig(
        optimizer="muon",
        muon_steps=3,
        muon_without=(r"classifier/4/", r"scores_"),  # they put out classes
        nesterov=True,
        base_lr=0.256,  # for 256 images; this is 0.008 for 8
        weight_decay=0.01,
        no_decay=(r"bn", r"bias$", r"classifier/1/"),
        schedule="cosine",
        warmup_epochs=0.7,
    ),
    checkpoint=CheckpointConfig(every_epochs=6.0),
    epochs=18.0,
    eval_every_epochs=6.0,
    batch_size=8,
    eval_batch_size=64,
    log_every_steps=100,
)
