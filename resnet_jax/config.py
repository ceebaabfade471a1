"""Every knob of an experiment, with its unit and its range. Standard library only.

Base quantities are stored (`base_lr` per 256 images, `*_epochs`); what follows from them is computed in one place,
`resnet_jax.training.optim.plan_steps`, so that an override never leaves a stale value behind. Types and ranges are
checked when a config is built: a wrong value is a `ConfigError` before any work starts.
"""

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

from resnet_jax.checked import AtLeastOne, Checked, Fraction, NotNegative, Pattern, Positive, Range, nearest_multiples
from resnet_jax.errors import ConfigError
from resnet_jax.groups import Group


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Checked):
    """The network. Options beyond these are arguments of `resnet_jax.create_model`."""

    name: str = "resnet50"
    """A name from `python -m resnet_jax models`."""
    num_classes: Annotated[int, AtLeastOne] = 1000
    zero_init_residual: bool = True
    """Start the last BatchNorm scale of every residual branch at 0 (Goyal et al. 2017, section 5.1)."""
    bn_group_size: Annotated[int, NotNegative] = 0
    """Images that share BatchNorm statistics in training; 0 = the whole batch. Part of the recipe: it does not depend
    on the number of devices."""
    stochastic_depth: Annotated[float, Fraction] = 0.0
    """Rate at which training drops the last block's branch, rising linearly from 0 at the first (Huang et al. 2016)."""
    dtype: Literal["float32", "tf32", "bfloat16", "float16"] = "float32"
    """Of activations and convolutions. Parameters, statistics, logits and loss stay float32. `tf32` stores float32 and
    lets the device multiply with fewer bits (10 on a GPU, 7 on a TPU); `float32` never does. `float16` scales the loss,
    see `docs/pods.md`."""
    remat: tuple[Annotated[int, AtLeastOne], ...] = ()
    """Stages, from 1, that compute their activations again in the backward pass, block by block, instead of keeping
    them: less memory, up to a third more time."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Checked):
    """What is changed at random in training images, in this order; `docs/augmentation.md` shows each. The default is
    the plain recipe: random crops and flips.
    """

    random_resized_crop: bool = True
    """A random area and aspect ratio (Szegedy et al. 2015; torchvision's law). False: as in evaluation."""
    crop_min_area: Annotated[float, Range(above=0, high=1)] = 0.08
    """Smallest fraction of the image's area that a random crop takes."""
    train_size: Annotated[int, NotNegative] = 0
    """Height and width in pixels of training images; 0 = `DataConfig.image_size`. A little less than in evaluation is
    faster and better (Touvron et al. 2019, arXiv:1906.06423)."""
    policy: Literal["none", "trivial_augment_wide", "rand_augment"] = "none"
    """One random operation of random strength (Mueller & Hutter 2021, arXiv:2103.10158), or `rand_operations` of
    strength `rand_magnitude` (Cubuk et al. 2020, arXiv:1909.13719); both as torchvision has them, on bytes."""
    rand_operations: Annotated[int, AtLeastOne] = 2
    rand_magnitude: Annotated[int, Range(low=0, high=30)] = 9
    """Of `rand_augment`: 0 changes least, 30 most."""
    shift_pixels: Annotated[int, NotNegative] = 0
    """On the device: pad by so many pixels (the border repeats) and crop at random (He 2015, 4.2)."""
    flip: bool = True
    """On the device: mirror every other image left to right."""
    brightness: Annotated[float, NotNegative] = 0.0
    """Colour jitter on the device, torchvision's law: multiply by a factor uniform in [max(0, 1 - b), 1 + b]. The four
    operations come in a random order; 0 leaves one out."""
    contrast: Annotated[float, NotNegative] = 0.0
    """As `brightness`, away from or towards the mean grey of the image."""
    saturation: Annotated[float, NotNegative] = 0.0
    """As `brightness`, away from or towards the grey of each pixel."""
    hue: Annotated[float, Range(low=0, high=0.5)] = 0.0
    """Turn the colour circle by a fraction uniform in [-hue, hue]; 0.5 is half a circle."""
    lighting: Annotated[float, NotNegative] = 0.0
    """Standard deviation of the noise along the principal components of ImageNet's colours (Krizhevsky et al. 2012,
    section 4.1, use 0.1); on the device."""
    erase_probability: Annotated[float, Range(low=0, high=1)] = 0.0
    """Of covering a rectangle of 2 to 33 % of the image (Zhong et al. 2017, arXiv:1708.04896; torchvision's law)."""
    erase_with: Literal["mean", "noise"] = "mean"
    """Zeros or standard normal noise, after normalisation."""
    mixup_alpha: Annotated[float, NotNegative] = 0.0
    """Blend pairs of images and of targets with weights from Beta(alpha, alpha) (Zhang et al. 2017, arXiv:1710.09412).
    0 = never. With `cutmix_alpha` also set, one of the two is drawn each time."""
    cutmix_alpha: Annotated[float, NotNegative] = 0.0
    """Paste a box of the partner, of area 1 - Beta(alpha, alpha) (Yun et al. 2019, arXiv:1905.04899). 0 = never."""
    cutmix_share: Annotated[float, Range(low=0, high=1)] = 0.5
    """Where both are set: how often it is CutMix."""
    mix_probability: Annotated[float, Range(low=0, high=1)] = 1.0
    """How often images are mixed at all."""
    mix_law: Literal["torchvision", "timm"] = "torchvision"
    """An image's partner: the one before it in its group, or the one at the mirrored place."""
    mix_group_size: Annotated[int, NotNegative] = 0
    """Images that share the draw of a mixture and are paired among themselves; 0 = the whole batch. torchvision's and
    timm's recipes mix within the batch of one GPU. Part of the recipe: it does not depend on the number of devices,
    and where it divides a device's share of the batch, devices need not exchange images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mixes and self.mix_group_size == 1:
            raise ConfigError(
                "AugmentConfig.mix_group_size = 1 leaves an image no partner to be mixed with; it must be at least 2, "
                "or 0 for the whole batch"
            )

    @property
    def mixes(self) -> bool:
        """Whether images are mixed, so that targets are spread over more than one class."""
        return bool((self.mixup_alpha or self.cutmix_alpha) and self.mix_probability)


@dataclass(frozen=True, kw_only=True)
class DataConfig(Checked):
    """Where images come from and how they are prepared."""

    name: str = "digits"
    """`digits` (embedded), `folder:PATH` (PATH/SPLIT/CLASS/*.jpg), `tfds:NAME` (prepared as array_record),
    `parquet:PATH` (SPLIT-*.parquet, as Hugging Face has them), `records:PATH` (made by `data prepare`), `npz:PATH`
    (SPLIT_images and SPLIT_labels) or `synthetic` (noise, for benchmarks); docs/data.md."""
    directory: str | None = None
    """Where TFDS data lives; None = TFDS's default (`TFDS_DATA_DIR` or ~/tensorflow_datasets)."""
    train_split: str = "train"
    eval_split: str = "test"
    holdout: Annotated[float, Fraction] = 0.0
    """Of a folder without splits (PATH/CLASS/*.jpg): the share of each class, always the same files, that is
    `eval_split`; the rest is `train_split`. 0 = the folder has splits."""
    channels: Literal[1, 3] = 3
    image_size: Annotated[int, AtLeastOne] = 224
    """Height and width in pixels of what the network sees."""
    eval_resize: Annotated[int, AtLeastOne] = 256
    """Pixels of the shorter side before the central crop in evaluation (bilinear, antialiased, as torchvision does)."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Per channel, of pixel values in [0, 1]."""
    std: tuple[Annotated[float, Positive], ...] = (0.229, 0.224, 0.225)
    repeats: Annotated[int, AtLeastOne] = 1
    """In training: a batch holds so many differently cropped copies of an image, and an epoch, whose length stays the
    same, sees 1/repeats of the images (Hoffer et al. 2019, arXiv:1901.09335; torchvision's `--ra-reps`)."""
    max_broken_fraction: Annotated[float, Fraction] = 0.001
    """Images that cannot be read are skipped in training, up to this fraction of the data set."""
    threads: Annotated[int, AtLeastOne] = 16
    """Threads of one host that read and decode images."""
    workers: Annotated[int, NotNegative] = 0
    """Processes of one host that these threads are spread over; 0 = none but the one that trains. Worth their memory
    and start where one process cannot keep up (docs/data.md says when)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != self.channels:
                raise ConfigError(
                    f"DataConfig.{name} = {values} has {len(values)} values; it must have one for each of the "
                    f"{self.channels} channels"
                )
        coloured = [name for name in ("saturation", "hue", "lighting") if getattr(self.augment, name)]
        if self.channels == 1 and coloured:
            raise ConfigError(
                f"DataConfig.augment: {', '.join(coloured)} change colours, and images of channels = 1 have none; "
                "set them to 0"
            )
        if self.holdout and not self.name.startswith("folder:"):
            raise ConfigError(
                f"DataConfig.holdout = {self.holdout} is for folders of images, and {self.name} has splits; set it to 0"
            )
        if not self.augment.random_resized_crop and self.train_size > self.eval_resize:
            raise ConfigError(
                f"DataConfig.augment.train_size = {self.train_size} without random_resized_crop must be at most "
                f"eval_resize = {self.eval_resize}, or the central crop would not fit"
            )
        if self.eval_resize < self.image_size:
            raise ConfigError(
                f"DataConfig.eval_resize = {self.eval_resize} must be at least image_size = {self.image_size}, "
                "or the central crop would not fit"
            )

    @property
    def train_size(self) -> int:
        """Height and width in pixels of training images."""
        return self.augment.train_size or self.image_size


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Checked):
    """The optimizer, its schedule, and what goes with large batches. Default: SGD with momentum, PyTorch's coupling of
    weight decay (into the gradient, before momentum)."""

    optimizer: Literal["sgd", "lars", "lamb"] = "sgd"
    """LARS (You et al. 2017, arXiv:1708.03888) and LAMB (You et al. 2019, arXiv:1904.00962; `momentum` is its first
    beta, the second 0.999) give each layer a rate of its own, for batches of thousands."""
    base_lr: Annotated[float, Positive] = 0.1
    """Peak learning rate per 256 images of batch (Goyal et al. 2017: the linear scaling rule)."""
    momentum: Annotated[float, Fraction] = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, NotNegative] = 1e-4
    no_decay: tuple[Annotated[str, Pattern()], ...] = ()
    """Regular expressions, searched in parameter paths such as `layer1_0/bn1/scale`: those are not decayed, and
    LARS and LAMB leave their rate alone."""
    groups: tuple[Group, ...] = ()
    """Parameters with a rate or a decay of their own; a parameter belongs to one group at most."""
    trust_coefficient: Annotated[float, Positive] = 0.001
    """LARS: the length of a layer's step relative to its parameters, at a learning rate of 1."""
    clip_norm: Annotated[float, NotNegative] = 0.0
    """Gradients whose L2 norm over all parameters is larger are scaled down to it; 0 = never."""
    schedule: Literal["step", "cosine", "constant"] = "cosine"
    warmup_epochs: Annotated[float, NotNegative] = 5.0
    """Linear from 0 to the peak, step by step."""
    drop_epochs: tuple[Annotated[float, Positive], ...] = (30.0, 60.0, 80.0)
    """`step` schedule: where the rate is multiplied by `drop_factor`."""
    drop_factor: Annotated[float, Range(above=0, high=1)] = 0.1
    label_smoothing: Annotated[float, Fraction] = 0.0
    ema_decay: Annotated[float, Fraction] = 0.0
    """Of a moving average of parameters and BatchNorm statistics, which is then what is evaluated; 0 = none. As
    torchvision states it, for one update a step and one epoch: 1 - decay is multiplied by `ema_every_steps * batch_size
    / epochs`. Through the warm-up the average is a copy."""
    ema_every_steps: Annotated[int, AtLeastOne] = 32
    """It moves after the first of so many steps, as torchvision's."""
    shard_state: bool = False
    """Each device keeps only its part of the optimizer's state (ZeRO-1, arXiv:1910.02054); the result is the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for pattern in self.no_decay:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError(
                    f"OptimConfig.no_decay: {pattern!r} is no regular expression ({error}); for a part of a name as it "
                    f"is write {re.escape(pattern)!r}"
                ) from error


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(Checked):
    """What is kept in the workdir."""

    every_epochs: Annotated[float, Positive] = 1.0
    keep_last: Annotated[int, AtLeastOne] = 2
    keep_best: Annotated[int, NotNegative] = 1
    """By what is best on the evaluation split: top-1 accuracy, unless a task says otherwise."""
    on_error: Literal["stop", "continue"] = "stop"
    """When a checkpoint or the log cannot be written (disk full, read-only): stop, or say so and train on. The last
    checkpoint of a run must succeed, and with several processes all stop."""


@dataclass(frozen=True, kw_only=True)
class Config(Checked):
    """One experiment."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    seed: Annotated[int, Range(low=0, high=2**31 - 1)] = 0
    epochs: Annotated[float, Positive] = 90.0
    batch_size: Annotated[int, AtLeastOne] = 256
    """Images per update, over all devices and hosts."""
    accumulate: Annotated[int, AtLeastOne] = 1
    """Parts that each device computes one after the other before an update, for less memory. The result is the same,
    which is why `model.bn_group_size` must be set (and `mix_group_size`, where images are mixed)."""
    eval_batch_size: Annotated[int, AtLeastOne] = 256
    """Images per evaluation step, over all devices and hosts; the result does not depend on it."""
    eval_every_epochs: Annotated[float, Positive] = 1.0
    log_every_steps: Annotated[int, AtLeastOne] = 50
    on_non_finite: Literal["stop", "skip", "rollback"] = "stop"
    """When the loss or gradient of a step is infinite or nan: stop; skip its update; or go back to the last checkpoint
    and train on without its batch."""
    watchdog_seconds: Annotated[float, NotNegative] = 1800.0
    """A step that takes longer ends the run with every thread's stack; 0 = wait for ever. The first step (which
    compiles), evaluations and checkpoints may take ten times as long."""

    def __post_init__(self) -> None:
        super().__post_init__()
        group = self.model.bn_group_size
        if group and self.batch_size % group:
            raise ConfigError(
                f"batch_size = {self.batch_size} is not divisible by model.bn_group_size = {group}; "
                f"the nearest that are: {nearest_multiples(self.batch_size, group)}"
            )
        augment = self.data.augment
        mix_group = augment.mix_group_size or self.batch_size
        if augment.mixes and (self.batch_size % mix_group or mix_group < 2):
            raise ConfigError(
                f"batch_size = {self.batch_size} cannot be cut into groups of {mix_group} images to be mixed "
                "(data.augment.mix_group_size); it must be a multiple of it and at least 2; "
                f"the nearest that are: {nearest_multiples(self.batch_size, max(mix_group, 2))}"
            )
        if augment.mixes and augment.mix_law == "timm" and mix_group % 2:
            raise ConfigError(
                f"data.augment.mix_law = 'timm' pairs mirrored places, and in a group of {mix_group} images the middle "
                "one would be its own partner; the group must be even. Change mix_group_size or batch_size"
            )
        if self.accumulate > 1 and not (group and self.mix_group_size):
            whole = "data.augment.mix_group_size" if group else "model.bn_group_size"
            raise ConfigError(
                f"accumulate = {self.accumulate} needs {whole} > 0: with 0, the images of the whole batch depend on "
                "one another, and it cannot be computed in parts; set it to the images of one group, such as 32"
            )

    @property
    def mix_group_size(self) -> int:
        """Consecutive images of a batch that are mixed; 1 where images are not mixed, 0 = all."""
        return self.data.augment.mix_group_size if self.data.augment.mixes else 1
