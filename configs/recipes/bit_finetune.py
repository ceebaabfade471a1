"""Fine-tune published weights on another data set by the rule of "Big Transfer": size and length follow from the data.

    python train.py configs/recipes/bit_finetune.py --workdir runs/bit

For another data set, copy this file and change NAME, IMAGES, SIDE and `num_classes`.

Source: Kolesnikov et al. 2019 (arXiv:1912.11370), and google-research/big_transfer, `bit_hyperrule.py`.
Expected: their R50x1, trained on ImageNet-21k, reaches 97.3 % on CIFAR-10 with `--batch 128 --base_lr 0.001` (their
README, JAX). This network and its weights are others, and what it reaches was not measured. Not run here.
Hours: their README gives none.
Differs: torchvision's ResNet-50 with batch normalisation and its weights for ImageNet-1k, where BiT has group
normalisation and standardised kernels. The new layer begins at random, not with zeros. An image is mixed with the one
before it, where they draw an order.
"""

from typing import NamedTuple

from resnet_jax import AugmentConfig, Config, DataConfig, ModelConfig, OptimConfig, Start

NAME, IMAGES, SIDE = "tfds:cifar10", 50_000, 32
BATCH = 512


class Rule(NamedTuple):
    """What the size of a data set and of its images says.

    Attributes:
      resize: pixels of both sides of a training image.
      crop: pixels of the square that is cut out of it at random. In evaluation images are resized to it.
      supports: updates after which the warm-up ends, the rate is divided by 10, and training ends.
      mixup: alpha; 0 = images are not mixed.
    """

    resize: int
    crop: int
    supports: tuple[int, ...]
    mixup: float


def rule(images: int, height: int, width: int) -> Rule:
    """BiT-HyperRule.

    Args:
      images: of the training set.
      height, width: of an image, in pixels.
    """
    resize, crop = (160, 128) if height * width < 96 * 96 else (512, 480)
    if images < 20_000:
        supports: tuple[int, ...] = (100, 200, 300, 400, 500)
    elif images < 500_000:
        supports = (500, 3_000, 6_000, 9_000, 10_000)
    else:
        supports = (500, 6_000, 12_000, 18_000, 20_000)
    return Rule(resize, crop, supports, 0.0 if images < 20_000 else 0.1)


def epochs(steps: int) -> float:
    return steps * BATCH / IMAGES


chosen = rule(IMAGES, SIDE, SIDE)
warmup, *drops, end = chosen.supports

config = Config(
    model=ModelConfig(name="resnet50", num_classes=10),
    data=DataConfig(
        name=NAME,
        image_size=chosen.crop,
        eval_resize=chosen.crop,
        squash=True,
        augment=AugmentConfig(train_resize=(chosen.resize, chosen.resize), mixup_alpha=chosen.mixup),
    ),
    optim=OptimConfig(
        base_lr=0.003 * 256 / BATCH,
        weight_decay=0.0,
        schedule="step",
        drop_epochs=tuple(epochs(step + 1) for step in drops),  # they compare the number of the update with `<`
        warmup_epochs=epochs(warmup),
        warmup_first=0,
    ),
    start=Start(weights="IMAGENET1K_V2"),
    epochs=epochs(end),
    batch_size=BATCH,
    eval_batch_size=BATCH,
    eval_every_epochs=epochs(end) / 10,
    log_every_steps=50,
)
