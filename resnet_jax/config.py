"""Every knob of an experiment, with its unit and its range. Standard library only.

Base quantities are stored (`base_lr` per 256 images, `*_epochs`); what follows from them is computed in one place,
`resnet_jax.training.optim.plan_steps`, so that an override never leaves a stale value behind. Types and ranges are
checked when a config is built: a wrong value is a `ConfigError` before any work starts.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from resnet_jax.checked import AtLeastOne, Checked, Fraction, NotNegative, Positive, Range, nearest_multiples
from resnet_jax.errors import ConfigError


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
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of activations and convolutions. Parameters, statistics, logits and loss stay float32."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(Checked):
    """Where images come from and how they are prepared."""

    name: str = "digits"
    """`digits` (embedded), `tfds:NAME` (prepared as array_record) or `folder:PATH` (PATH/SPLIT/CLASS/*.jpg)."""
    directory: str | None = None
    """Where TFDS data lives; None = TFDS's default (`TFDS_DATA_DIR` or ~/tensorflow_datasets)."""
    train_split: str = "train"
    eval_split: str = "test"
    channels: Literal[1, 3] = 3
    image_size: Annotated[int, AtLeastOne] = 224
    """Height and width in pixels of what the network sees."""
    eval_resize: Annotated[int, AtLeastOne] = 256
    """Pixels of the shorter side before the central crop in evaluation (bilinear, antialiased, as torchvision does)."""
    random_resized_crop: bool = True
    """In training: a random area and aspect ratio (Szegedy et al. 2015; torchvision's law). False: as in evaluation."""
    crop_min_area: Annotated[float, Range(above=0, high=1)] = 0.08
    """Smallest fraction of the image's area that a random crop takes."""
    shift_pixels: Annotated[int, NotNegative] = 0
    """In training, on the device: pad by so many pixels (the border repeats) and crop at random (He 2015, 4.2)."""
    flip: bool = True
    """In training, on the device: mirror every other image left to right."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Per channel, of pixel values in [0, 1]."""
    std: tuple[Annotated[float, Positive], ...] = (0.229, 0.224, 0.225)
    threads: Annotated[int, AtLeastOne] = 16
    """Threads of one host that read and decode images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != self.channels:
                raise ConfigError(
                    f"DataConfig.{name} = {values} has {len(values)} values; it must have one for each of the "
                    f"{self.channels} channels"
                )
        if self.eval_resize < self.image_size:
            raise ConfigError(
                f"DataConfig.eval_resize = {self.eval_resize} must be at least image_size = {self.image_size}, "
                "or the central crop would not fit"
            )


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Checked):
    """SGD with momentum, PyTorch's coupling of weight decay (into the gradient, before momentum), and a schedule."""

    base_lr: Annotated[float, Positive] = 0.1
    """Peak learning rate per 256 images of batch (Goyal et al. 2017: the linear scaling rule)."""
    momentum: Annotated[float, Fraction] = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, NotNegative] = 1e-4
    no_decay: tuple[str, ...] = ()
    """Regular expressions, searched in parameter paths such as `layer1_0/bn1/scale`: those are not decayed."""
    schedule: Literal["step", "cosine", "constant"] = "cosine"
    warmup_epochs: Annotated[float, NotNegative] = 5.0
    """Linear from 0 to the peak, step by step."""
    drop_epochs: tuple[Annotated[float, Positive], ...] = (30.0, 60.0, 80.0)
    """`step` schedule: where the rate is multiplied by `drop_factor`."""
    drop_factor: Annotated[float, Range(above=0, high=1)] = 0.1
    label_smoothing: Annotated[float, Fraction] = 0.0


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(Checked):
    """What is kept in the workdir."""

    every_epochs: Annotated[float, Positive] = 1.0
    keep_last: Annotated[int, AtLeastOne] = 2
    keep_best: Annotated[int, NotNegative] = 1
    """By top-1 accuracy on the evaluation split."""
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
