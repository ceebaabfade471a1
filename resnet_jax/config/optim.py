"""The optimizer and its schedule. Standard library only."""

import itertools
from dataclasses import dataclass, field
from typing import Annotated, Literal

from resnet_jax.config.checked import AtLeastOne, Checked, Fraction, NotNegative, Pattern, Positive, Range
from resnet_jax.config.groups import Group, Statistics, Unfreeze
from resnet_jax.config.prune import Prune
from resnet_jax.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Checked):
    """The optimizer, its schedule, and settings for large batches. The default is SGD with momentum. As in PyTorch,
    weight decay is added to the gradient before momentum."""

    optimizer: Literal["sgd", "adamw", "lars", "lamb", "muon"] = "sgd"
    """AdamW (Loshchilov & Hutter 2017, arXiv:1711.05101; `momentum` is its first beta) decays weights apart from the
    gradient. LARS (You et al. 2017, arXiv:1708.03888) and LAMB (You et al. 2019, arXiv:1904.00962; `momentum` is its
    first beta, the second is 0.999) give each layer a rate of its own, for batches of thousands of images. Muon (Jordan
    et al. 2024, kellerjordan.github.io/posts/muon) changes the kernels of convolutions in all directions alike. Its
    steps are as large as AdamW's (Liu et al. 2025, arXiv:2502.16982), so AdamW's rates and decays suit it. All other
    parameters are AdamW's; `momentum` is Muon's and AdamW's first beta, and `nesterov` is for both."""
    base_lr: Annotated[float, Positive] = 0.1
    """Peak learning rate for 256 images of batch; it is scaled linearly with the batch (Goyal et al. 2017)."""
    momentum: Annotated[float, Fraction] = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, NotNegative] = 1e-4
    no_decay: tuple[Annotated[str, Pattern()], ...] = ()
    """Regular expressions, searched in parameter paths such as `layer1_0/bn1/scale`. These parameters are not decayed,
    and LARS and LAMB do not change their rate."""
    groups: tuple[Group, ...] = ()
    """Parameters with a rate or a decay of their own; a parameter belongs to one group at most."""
    level: str = "all"
    """What is trained: `head`, `last_block` or `last_stage` (each with all that follows), `all`, or a regular
    expression that is searched in parameter paths. The rest is frozen, as by a group of rate 0."""
    unfreeze: tuple[Unfreeze, ...] = ()
    """Gradual unfreezing: further phases, in which other levels are trained. Each phase is a program of its own. At its
    start the optimizer's moments are set to 0; the schedule goes on."""
    frozen_statistics: Statistics = "fixed"
    """BatchNorm's running statistics in the parts that `level` freezes. `fixed`: these norms use them, and they do not
    change, as in Keras. `moving`: these norms use the batch's, and the running ones follow, as in PyTorch where only
    `requires_grad` is False."""
    layer_decay: Annotated[float, Range(above=0, high=1)] = 1.0
    """Factor of the learning rate from each block to the block before it, from the head (factor 1) back to the stem, as
    in timm. It also multiplies the rates of `groups`."""
    second_beta: Annotated[float, Fraction] = 0.999
    """`adamw`, `muon`: decay of the running mean of squared gradients."""
    epsilon: Annotated[float, Positive] = 1e-8
    """`adamw`, `muon`: added to the square root of that mean."""
    muon_steps: Annotated[int, AtLeastOne] = 5
    """Muon: iterations by which a step becomes the same in all directions. 3 take less time, and
    are enough for `configs/segment/digits.py`."""
    muon_without: tuple[Annotated[str, Pattern()], ...] = ()
    """Muon: regular expressions of kernels that are AdamW's all the same, such as convolutions that put out classes."""
    trust_coefficient: Annotated[float, Positive] = 0.001
    """LARS: the length of a layer's step relative to its parameters, at a learning rate of 1."""
    lars_measure: Literal["norm_of_sum", "sum_of_norms"] = "norm_of_sum"
    """LARS: what the parameters of a layer are compared with, g being its gradient and d its decayed parameters.
    `norm_of_sum`: |g + d|, as in optax. `sum_of_norms`: |g| + |d|, as in the paper, MLPerf's reference and timm."""
    clip_norm: Annotated[float, NotNegative] = 0.0
    """Scales the gradients down to this L2 norm over all parameters, where theirs is larger; 0 = never."""
    clip_value: Annotated[float, NotNegative] = 0.0
    """Cuts each number of the gradients to at most this size; 0 = never."""
    clip_adaptive: Annotated[float, NotNegative] = 0.0
    """Scales the gradient of each filter down to this share of the norm of the filter (Brock et al. 2021,
    arXiv:2102.06171, use 0.01); 0 = never."""
    clip_without: tuple[Annotated[str, Pattern()], ...] = ()
    """Regular expressions of parameters whose gradients do not count in the norm, and are not clipped."""
    schedule: Literal["step", "cosine", "polynomial", "constant"] = "cosine"
    """The learning rate after the warm-up. It changes with every step, except for `step` and `constant`."""
    rate_moves: Literal["step", "epoch"] = "step"
    """`epoch`: the rate changes at the beginning of epochs only, and the formulas of the schedules count epochs, as
    torchvision's and timm's recipes do."""
    schedule_from: Literal["warmup", "start"] = "warmup"
    """Where the schedule begins: after the warm-up, or with the run, so that the warm-up hides its first part (timm's
    recipes)."""
    warmup_epochs: Annotated[float, NotNegative] = 5.0
    """The rate rises linearly to the peak."""
    warmup_start: Annotated[float, Range(low=0, high=1)] = 0.0
    """Where it rises from, as a share of the peak."""
    warmup_first: Literal[0, 1] = 1
    """1: the first update of the warm-up is a step above its start, and the last one has the peak. 0: the first one has
    the start."""
    end_factor: Annotated[float, Range(low=0, high=1)] = 0.0
    """`cosine` and `polynomial`: where the rate ends, as a share of the peak."""
    flat_share: Annotated[float, Fraction] = 0.0
    """`cosine` and `polynomial`: the rate stays at the peak for this share of the schedule, and then falls (fastai's
    `fit_flat_cos` has 0.75)."""
    drop_epochs: tuple[Annotated[float, Positive], ...] = (30.0, 60.0, 80.0)
    """`step` schedule: epochs at which the rate is multiplied by `drop_factor`."""
    drop_factor: Annotated[float, Range(above=0, high=1)] = 0.1
    power: Annotated[float, Positive] = 0.9
    """`polynomial` schedule: the peak is multiplied by `(1 - t) ** power`, where t goes from 0 to 1 (as torchvision has
    it for segmentation)."""
    ema_decay: Annotated[float, Fraction] = 0.0
    """Decay of a moving average of parameters and BatchNorm statistics; the average is then what is evaluated; 0 =
    none. The decay is stated as in torchvision, for one update a step and one epoch: 1 - decay is multiplied by
    `ema_every_steps * batch_size / epochs`. During the warm-up the average is a plain copy.
    """
    ema_every_steps: Annotated[int, AtLeastOne] = 32
    """The average moves after the first of every `ema_every_steps` steps, as torchvision's."""
    prune: Prune = field(default_factory=Prune)
    shard_state: bool = False
    """Each device keeps only its part of the optimizer's state (ZeRO-1, arXiv:1910.02054). The result is the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        modes = [name for name in ("clip_norm", "clip_value", "clip_adaptive") if getattr(self, name)]
        if len(modes) > 1:
            raise ConfigError(
                f"OptimConfig.{modes[0]} = {getattr(self, modes[0])} and {modes[1]} = {getattr(self, modes[1])} both "
                "say how gradients are clipped, and one of them is used; set the other to 0"
            )
        if self.schedule in ("step", "constant") and (self.end_factor or self.flat_share):
            raise ConfigError(
                f"OptimConfig.end_factor = {self.end_factor} and flat_share = {self.flat_share} are for the schedules "
                f"'cosine' and 'polynomial', and schedule = {self.schedule!r}; leave them at 0"
            )
        if self.rate_moves == "epoch" and self.warmup_epochs % 1:
            raise ConfigError(
                f"OptimConfig.warmup_epochs = {self.warmup_epochs} must be whole where rate_moves = 'epoch'; round it, "
                "or let the rate move with every step"
            )
        epochs = [phase.epoch for phase in self.unfreeze]
        if any(later <= earlier for earlier, later in itertools.pairwise(epochs)):
            raise ConfigError(
                f"OptimConfig.unfreeze: the phases begin at the epochs {', '.join(f'{epoch:g}' for epoch in epochs)}; "
                "each must begin after the one before it. Sort them, and give each an epoch of its own"
            )
