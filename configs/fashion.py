"""Fashion-MNIST: 60,000 grey photographs of clothes, 28x28 pixels, in 10 classes, and 10,000 to test (Xiao et al. 2017,
arXiv:1708.07747). The files are those of MNIST; Debian brings them in its package dataset-fashion-mnist.

    python train.py configs/fashion.py --data.name idx:/usr/share/datasets/fashion-mnist --workdir runs/fashion

The network is that of He et al. 2015, section 4.2, for CIFAR-10. Images are enlarged to 32x32 pixels, which is the size
that it was made for. docs/compress.md says what it reaches, and makes it smaller.
"""

from resnet_jax import AugmentConfig, CheckpointConfig, Classify, Config, DataConfig, ModelConfig, OptimConfig

config = Config(
    model=ModelConfig(name="cifar_resnet20", num_classes=10),
    data=DataConfig(
        name="idx:fashion-mnist",
        channels=1,
        image_size=32,
        eval_resize=32,
        augment=AugmentConfig(random_resized_crop=False, shift_pixels=2, flip=True),
        mean=(0.286,),
        std=(0.353,),
    ),
    task=Classify(label_smoothing=0.0),
    optim=OptimConfig(
        base_lr=0.2,
        nesterov=True,
        weight_decay=5e-4,
        no_decay=(r"bn", r"bias$"),
        schedule="cosine",
        warmup_epochs=1.0,
    ),
    checkpoint=CheckpointConfig(every_epochs=1.0),
    epochs=10.0,
    batch_size=128,
    eval_batch_size=1000,
    eval_every_epochs=1.0,
    log_every_steps=50,
)
