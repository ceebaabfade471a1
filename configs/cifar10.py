"""CIFAR-10 as He et al. 2015 (arXiv:1512.03385), section 4.2, train on it: 64,000 updates with 128 images.

    python train.py configs/cifar10.py --workdir runs/cifar10
    python train.py configs/cifar10.py --model.name cifar_resnet110 --optim.warmup-epochs 1 --workdir runs/cifar10-110

The data set is `cifar10`, prepared by TFDS (`python -m resnet_jax data prepare cifar10`). Expected: an error of 8.75 %
for 20 layers, 7.51 % for 32, 7.17 % for 44, 6.97 % for 56 and 6.61 % for 110 (the paper, Table 6). Not run here.
Differs: the paper pads images with zeros before it crops them, and here the border repeats. It subtracts a mean image,
and here each channel has a mean and a deviation. It trains 110 layers at a tenth of the rate until the training
error is below 80 %; a warm-up of one epoch takes the place of that.
"""

from resnet_jax import AugmentConfig, CheckpointConfig, Config, DataConfig, ModelConfig, OptimConfig

EPOCHS_OF_A_THOUSAND = 1000 / (50_000 / 128)  # updates

config = Config(
    model=ModelConfig(name="cifar_resnet20", num_classes=10, zero_init_residual=False),
    data=DataConfig(
        name="tfds:cifar10",
        image_size=32,
        eval_resize=32,
        augment=AugmentConfig(random_resized_crop=False, shift_pixels=4, flip=True),
        mean=(0.491, 0.482, 0.447),
        std=(0.247, 0.243, 0.262),
    ),
    optim=OptimConfig(
        base_lr=0.2,  # for 256 images; it is scaled with the batch, to 0.1
        weight_decay=1e-4,
        schedule="step",
        drop_epochs=(32 * EPOCHS_OF_A_THOUSAND, 48 * EPOCHS_OF_A_THOUSAND),
        warmup_epochs=0.0,
    ),
    checkpoint=CheckpointConfig(every_epochs=5.0),
    epochs=64 * EPOCHS_OF_A_THOUSAND,
    batch_size=128,
    eval_batch_size=1000,
    eval_every_epochs=5.0,
    log_every_steps=100,
)
