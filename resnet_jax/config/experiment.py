"""Every knob of an experiment, with its unit and its range. Standard library only.

The config stores base quantities (`base_lr` per 256 images, `*_epochs`). `resnet_jax.training.optim.plan_steps`
computes everything that follows from them. So an override never leaves a stale value behind. Types and ranges are
checked when a config is built: a wrong value is a `ConfigError` before any work starts.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from resnet_jax.config.checked import AtLeastOne, Checked, NotNegative, Positive, Range, nearest_multiples
from resnet_jax.config.checkpoint import CheckpointConfig
from resnet_jax.config.data import DataConfig
from resnet_jax.config.detect import Detect
from resnet_jax.config.distil import Distil
from resnet_jax.config.evaluation import Eval
from resnet_jax.config.model import ModelConfig
from resnet_jax.config.optim import OptimConfig
from resnet_jax.config.quantize import Qat
from resnet_jax.config.start import Start
from resnet_jax.config.task import Classify, Clips, Embed, Segment
from resnet_jax.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Config(Checked):
    """One experiment."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    task: Classify | Segment | Embed | Clips | Detect = field(default_factory=Classify)
    optim: OptimConfig = field(default_factory=OptimConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    start: Start = field(default_factory=Start)
    distil: Distil = field(default_factory=Distil)
    quantize: Qat = field(default_factory=Qat)
    seed: Annotated[int, Range(low=0, high=2**31 - 1)] = 0
    epochs: Annotated[float, Positive] = 90.0
    batch_size: Annotated[int, AtLeastOne] = 256
    """Images per update, over all devices and hosts."""
    accumulate: Annotated[int, AtLeastOne] = 1
    """Parts of the batch that each device computes one after the other before an update, to need less memory. The
    result is the same. For this, `model.bn_group_size` must be set (and `mix_group_size`, where images are mixed).
    """
    eval_batch_size: Annotated[int, AtLeastOne] = 256
    """Images per evaluation step, over all devices and hosts; the result does not depend on it."""
    eval_every_epochs: Annotated[float, Positive] = 1.0
    evals: tuple[Eval, ...] = ()
    """Several evaluations instead of the one of `data.eval_split`, each with its own interval. The first decides which
    checkpoint is best."""
    log_every_steps: Annotated[int, AtLeastOne] = 50
    on_non_finite: Literal["stop", "skip", "rollback"] = "stop"
    """When the loss or gradient of a step is infinite or nan: stop; or skip the update of the step; or go back to the
    last checkpoint and train on without the batch of the step."""
    watchdog_seconds: Annotated[float, NotNegative] = 1800.0
    """A step that takes longer ends the run and prints every thread's stack; 0 = wait for ever. The first step (which
    compiles), evaluations and checkpoints may take ten times as long."""

    def __post_init__(self) -> None:
        super().__post_init__()
        group = self.model.bn_group_size
        if group and self.batch_size % group:
            raise ConfigError(
                f"batch_size = {self.batch_size} is not divisible by model.bn_group_size = {group}; "
                f"the nearest that are: {nearest_multiples(self.batch_size, group)}"
            )
        self._check_evals()
        self._check_images()
        if self.quantize.images:
            self._check_quantized()
        if late := [phase.epoch for phase in self.optim.unfreeze if phase.epoch >= self.epochs]:
            raise ConfigError(
                f"optim.unfreeze: a phase begins at epoch {late[0]:g}, and the run ends at epoch {self.epochs:g}; "
                "train longer, or let the phase begin earlier"
            )
        if self.optim.prune.sparsity and self.optim.prune.end_epoch > self.epochs:
            raise ConfigError(
                f"optim.prune.end_epoch = {self.optim.prune.end_epoch:g} lies beyond the {self.epochs:g} epochs of the "
                "run, so its sparsity would never be reached; train longer, or set it lower"
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

    def _check_images(self) -> None:
        data, augment = self.data, self.data.augment
        if late := [resize.epoch for resize in augment.resizes if resize.epoch >= self.epochs]:
            raise ConfigError(
                f"data.augment.resizes: a size begins at epoch {late[0]:g}, and the run ends at epoch {self.epochs:g}; "
                "train longer, or let the size begin earlier"
            )
        # What the fills of other tasks do not know.
        wanted = {
            "data.augment.resizes": (bool(augment.resizes), (Classify,)),
            "data.augment.train_resize": (bool(augment.train_resize), (Classify, Embed)),
            "data.augment.crop_interpolation": (augment.crop_interpolation != "bilinear", (Classify, Embed)),
            "data.eval_crop_ratio": (bool(data.eval_crop_ratio), (Classify, Embed, Clips)),
            "data.eval_interpolation": (data.eval_interpolation != "bilinear", (Classify, Embed, Clips)),
            "data.squash": (data.squash, (Classify, Embed, Clips)),
        }
        for name, (asked, known) in wanted.items():
            if asked and not isinstance(self.task, known):
                tasks = " and ".join(task.__name__ for task in known)
                raise ConfigError(
                    f"{name} is set, and the task {type(self.task).__name__} prepares its images in another way; leave "
                    f"it out. It is for {tasks}"
                )

    def _check_quantized(self) -> None:
        wrong = [
            (not self.start.weights, "start.weights = ''", "it begins with a trained network; name a run or weights"),
            (
                self.model.dtype != "float32",
                f"model.dtype = {self.model.dtype!r}",
                "its numbers need float32; set that",
            ),
            (bool(self.model.remat), f"model.remat = {self.model.remat}", "each number is rounded once; leave it out"),
            (not isinstance(self.task, Classify), "task = Segment", "it is for networks for classification alone"),
        ]
        for is_wrong, what, why in wrong:
            if is_wrong:
                raise ConfigError(f"quantize.images = {self.quantize.images} quantises in training, and {what}: {why}")

    def _check_evals(self) -> None:
        names = [one.name for one in self.evals]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(
                f"evals: the name {twice[0]!r} is used twice, and the numbers of both would have one name in the log; "
                "rename one of them"
            )
        if wrong := [name for name in names if not name or "/" in name]:
            raise ConfigError(
                f"evals: the name {wrong[0]!r} stands before a slash in the log; it must not be empty, nor hold a slash"
            )

    @property
    def evaluations(self) -> tuple[Eval, ...]:
        """The evaluations of the run: `evals`, or without any the one of `data.eval_split`, which has no name."""
        return self.evals or (Eval(name="", split=self.data.eval_split, every_epochs=self.eval_every_epochs),)

    @property
    def mix_group_size(self) -> int:
        """How many consecutive images of a batch are mixed; 1 where images are not mixed, 0 = all."""
        return self.data.augment.mix_group_size if self.data.augment.mixes else 1
