"""Random changes of training images. Standard library only."""

import itertools
from dataclasses import dataclass
from typing import Annotated, Literal

from resnet_jax.config.checked import AtLeastOne, Checked, NotNegative, Positive, Range
from resnet_jax.errors import ConfigError

TIMM_MAGNITUDES = 10
"""The strength of timm's operations at which they change most."""


@dataclass(frozen=True, kw_only=True)
class Resize(Checked):
    """Training images of another size, from an epoch on."""

    epoch: Annotated[float, Positive]
    """When the size begins, in epochs since the start of the run."""
    size: Annotated[int, AtLeastOne]
    """Height and width in pixels."""


def ramped_sizes(low: int, high: int, begin: int, end: int, multiple: int = 32) -> tuple[Resize, ...]:
    """Sizes that rise from `low` to `high` between two epochs, for `AugmentConfig.resizes`.

    As FFCV's `get_resolution` has it: the last epoch of `low` is `begin`, counted from 0, the first of `high` is `end`,
    and between them a line is rounded to the nearest multiple. As NumPy does it, a half goes to the even number.
    """
    between = [low + (high - low) * (epoch - begin) / (end - begin) for epoch in range(begin + 1, end)]
    sizes = [low, *(round(side / multiple) * multiple for side in between), high]
    starts = [*range(begin + 1, end), max(end, begin + 1)]
    return tuple(
        Resize(epoch=float(epoch), size=size)
        for epoch, (before, size) in zip(starts, itertools.pairwise(sizes), strict=True)
        if size != before
    )


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Checked):
    """Random changes of training images, in the order of the fields. `docs/augmentation.md` shows each. The default is
    the plain recipe: random crops and flips.
    """

    random_resized_crop: bool = True
    """A random area and aspect ratio (Szegedy et al. 2015; torchvision's law). False: crop as in evaluation."""
    crop_min_area: Annotated[float, Range(above=0, high=1)] = 0.08
    """Smallest fraction of the image's area that a random crop takes."""
    crop_interpolation: Literal["bilinear", "bicubic", "random"] = "bilinear"
    """How a random crop is resized. `bilinear` is quick. `bicubic` has Pillow's bytes, and so has `random`, which draws
    one of Pillow's two for each image (timm's recipes)."""
    train_resize: tuple[Annotated[int, AtLeastOne], ...] = ()
    """In the place of `random_resized_crop`: the shorter side becomes a random number of pixels between these two, and
    a square is cut out at random (He et al. 2015, section 3.4, have 256 and 480)."""
    train_size: Annotated[int, NotNegative] = 0
    """Height and width in pixels of training images; 0 = `DataConfig.image_size`. Training images that are a little
    smaller than those of evaluation are faster and better (Touvron et al. 2019, arXiv:1906.06423)."""
    resizes: tuple[Resize, ...] = ()
    """Progressive resizing: later sizes of training images, each from an epoch on. Each size has a program of its own.
    """
    policy: Literal["none", "trivial_augment_wide", "rand_augment", "rand_augment_timm"] = "none"
    """`trivial_augment_wide`: one random operation of random strength (Mueller & Hutter 2021, arXiv:2103.10158).
    `rand_augment`: `rand_operations` operations of strength `rand_magnitude` (Cubuk et al. 2020, arXiv:1909.13719).
    Both as in torchvision, on bytes. `rand_augment_timm`: timm's `rand-mM-nN-mstdS-inc1`, where each operation is left
    out with probability 1/2, and strengths vary."""
    rand_operations: Annotated[int, AtLeastOne] = 2
    rand_magnitude: Annotated[int, Range(low=0, high=30)] = 9
    """Strength of `rand_augment`: 0 changes least, 30 most. Of `rand_augment_timm`: 10 changes most."""
    rand_spread: Annotated[float, NotNegative] = 0.0
    """Of `rand_augment_timm`: standard deviation of the strengths around `rand_magnitude`."""
    shift_pixels: Annotated[int, NotNegative] = 0
    """On the device: pad by this many pixels (the border repeats) and crop at random (He 2015, 4.2)."""
    flip: bool = True
    """On the device: mirror each image left to right with probability 1/2."""
    brightness: Annotated[float, NotNegative] = 0.0
    """Colour jitter on the device, torchvision's law: multiply by a factor uniform in [max(0, 1 - b), 1 + b]. The four
    operations come in a random order. 0 leaves this operation out."""
    contrast: Annotated[float, NotNegative] = 0.0
    """As `brightness`: moves pixels away from or towards the mean grey of the image."""
    saturation: Annotated[float, NotNegative] = 0.0
    """As `brightness`: moves each pixel away from or towards its own grey."""
    hue: Annotated[float, Range(low=0, high=0.5)] = 0.0
    """Turn the colour circle by a fraction uniform in [-hue, hue]; 0.5 is half a circle."""
    lighting: Annotated[float, NotNegative] = 0.0
    """Standard deviation of the noise along the principal components of ImageNet's colours (Krizhevsky et al. 2012,
    section 4.1, use 0.1); on the device."""
    erase_probability: Annotated[float, Range(low=0, high=1)] = 0.0
    """Probability of covering a rectangle of 2 to 33 % of the image (Zhong et al. 2017, arXiv:1708.04896; torchvision's
    law)."""
    erase_with: Literal["mean", "noise"] = "mean"
    """Fills the rectangle with zeros or with standard normal noise, after normalisation."""
    mixup_alpha: Annotated[float, NotNegative] = 0.0
    """Blend pairs of images and of targets with weights from Beta(alpha, alpha) (Zhang et al. 2017, arXiv:1710.09412).
    0 = never. With `cutmix_alpha` also set, one of the two is drawn each time."""
    cutmix_alpha: Annotated[float, NotNegative] = 0.0
    """Paste a box of the partner, of area 1 - Beta(alpha, alpha) (Yun et al. 2019, arXiv:1905.04899). 0 = never."""
    cutmix_share: Annotated[float, Range(low=0, high=1)] = 0.5
    """Where both alphas are set: the share of CutMix."""
    mix_probability: Annotated[float, Range(low=0, high=1)] = 1.0
    """Probability that images are mixed at all."""
    mix_law: Literal["torchvision", "timm"] = "torchvision"
    """An image's partner: the image before it in its group, or the image at the mirrored place."""
    mix_group_size: Annotated[int, NotNegative] = 0
    """Images that share the draw of a mixture and are paired with each other; 0 = the whole batch. torchvision's and
    timm's recipes mix within the batch of one GPU. The size is part of the recipe: it does not depend on the number of
    devices. Where it divides a device's share of the batch, devices need not exchange images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_sizes()
        if self.policy == "rand_augment_timm" and self.rand_magnitude > TIMM_MAGNITUDES:
            raise ConfigError(
                f"AugmentConfig.rand_magnitude = {self.rand_magnitude} must be at most {TIMM_MAGNITUDES} for policy = "
                "'rand_augment_timm'; timm's recipes have 6 to 9"
            )
        if self.policy != "rand_augment_timm" and self.rand_spread:
            raise ConfigError(
                f"AugmentConfig.rand_spread = {self.rand_spread} is for policy = 'rand_augment_timm', and policy = "
                f"{self.policy!r}; set it to 0"
            )
        if self.mixes and self.mix_group_size == 1:
            raise ConfigError(
                "AugmentConfig.mix_group_size = 1 leaves an image no partner to be mixed with; it must be at least 2, "
                "or 0 for the whole batch"
            )

    def _check_sizes(self) -> None:
        epochs = [resize.epoch for resize in self.resizes]
        if any(later <= earlier for earlier, later in itertools.pairwise(epochs)):
            raise ConfigError(
                f"AugmentConfig.resizes: the sizes begin at the epochs {', '.join(f'{epoch:g}' for epoch in epochs)}; "
                "each must begin after the one before it. Sort them, and give each an epoch of its own"
            )
        if self.train_resize and (len(self.train_resize) != 2 or self.train_resize[0] > self.train_resize[1]):
            raise ConfigError(
                f"AugmentConfig.train_resize = {self.train_resize} must be two numbers of pixels, the smaller first, "
                "such as (256, 480); or none"
            )
        if self.crop_interpolation != "bilinear" and not (self.random_resized_crop or self.train_resize):
            raise ConfigError(
                f"AugmentConfig.crop_interpolation = {self.crop_interpolation!r} is for random crops, and "
                "random_resized_crop = False; leave it at 'bilinear'. DataConfig.eval_interpolation is for other crops"
            )

    @property
    def mixes(self) -> bool:
        """Whether images are mixed, so that targets are spread over more than one class."""
        return bool((self.mixup_alpha or self.cutmix_alpha) and self.mix_probability)
