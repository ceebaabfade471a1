"""RetinaNet on embedded data: 4,000 scenes of handwritten digits to train on and 500 to test, 96 x 96 pixels.

    python train.py configs/detect/digits_retinanet.py

The classes are the background and the ten digits. The network is RetinaNet, second version, over the first three stages
of a small ResNet. Digits are 12 to 40 pixels large, so the pyramid has strides of 4, 8 and 16, and the anchors have the
sizes of digits.
"""

from resnet_jax import AugmentConfig, CheckpointConfig, Config, DataConfig, Detect, ModelConfig, OptimConfig

config = Config(
    model=ModelConfig(
        name="retinanet_resnet18_fpn_v2",
        stage_sizes=(1, 1, 1),
        width_multiplier=0.5,
        num_classes=11,
        zero_init_residual=False,
    ),
    task=Detect(
        min_size=(96,),
        max_size=96,
        jitter=(0.85, 1.2),
        canvas=96,
        max_boxes=6,
        mask_size=56,
        levels=(1, 2, 3),
        extra_levels=0,
        pyramid_width=48,
        head_convs=2,
        anchor_sizes=((12.0, 16.0), (20.0, 26.0), (34.0, 44.0)),
        anchor_ratios=(1.0, 1.7),
        topk_candidates=200,
        detections_per_img=20,
    ),
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
        base_lr=0.096,  # for 256 images; this is 0.003 for 8
        weight_decay=0.02,
        no_decay=(r"scale$", r"bias$"),
        schedule="cosine",
        warmup_epochs=0.2,
    ),
    checkpoint=CheckpointConfig(every_epochs=6.5),
    epochs=13.0,
    eval_every_epochs=6.5,
    batch_size=8,
    eval_batch_size=50,
    log_every_steps=100,
)
