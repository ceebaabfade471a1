"""The embedded data set: scikit-learn's 1,797 handwritten digits, 8x8 pixels, 1,437 to train on and 360 to test.

    python train.py                                      # this file is the default config

The network is a 29-layer bottleneck network (9n+2 layers, n = 3; He et al. 2015, section 4.2; 0.3 M parameters).
"""

from resnet_jax import AugmentConfig, CheckpointConfig, Classify, Config, DataConfig, ModelConfig, OptimConfig

config = Config(
    model=ModelConfig(name="cifar_resnet29", num_classes=10),
    data=DataConfig(
        name="digits",
        channels=1,
        image_size=8,
        eval_resize=8,
        augment=AugmentConfig(random_resized_crop=False, shift_pixels=1, flip=False),  # a mirrored 2 is not a 2
        mean=(0.305,),
        std=(0.376,),
    ),
    task=Classify(label_smoothing=0.1),
    optim=OptimConfig(
        base_lr=0.4,
        nesterov=True,
        weight_decay=5e-4,
        no_decay=(r"bn", r"bias$"),
        schedule="cosine",
        warmup_epochs=4.0,
    ),
    checkpoint=CheckpointConfig(every_epochs=5.0),
    epochs=40.0,
    batch_size=64,
    eval_batch_size=360,
    eval_every_epochs=1.0,
    log_every_steps=20,
)
