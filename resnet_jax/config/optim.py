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

    optimizer: Literal["sgd", "adamw", "lars", "lamb"] = "sgd"
    """AdamW (Loshchilov & Hutter 2017, arXiv:1711.05101; `momentum` is its first beta) decays weights apart from the
    gradient. LARS (You et al. 2017, arXiv:1708.03888) and LAMB (You et al. 2019, arXiv:1904.00962; `momentum` is its
    first beta, the second is 0.999) give each layer a rate of its own, for batches of thousands of images."""
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
    """`adamw`: decay of the running mean of squared gradients."""
    epsilon: Annotated[float, Positive] = 1e-8
    """`adamw`: added to the square root of that mean."""
    trust_coefficient: Annotated[float, Positive] = 0.001
    """LARS: the length of a layer's step relative to its parameters, at a learning rate of 1."""
    clip_norm: Annotated[float, NotNegative] = 0.0
    """Scales the gradients down to this L2 norm over all parameters, where theirs is larger; 0 = never."""
    clip_without: tuple[Annotated[str, Pattern()], ...] = ()
    """Regular expressions of parameters whose gradients do not count in this norm, and are not scaled."""
    schedule: Literal["step", "cosine", "polynomial", "constant"] = "cosine"
    """The learning rate after the warm-up. It changes with every step, except for `step` and `constant`."""
    warmup_epochs: Annotated[float, NotNegative] = 5.0
    """The rate rises linearly from 0 to the peak, step by step."""
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
        epochs = [phase.epoch for phase in self.unfreeze]
        if any(later <= earlier for earlier, later in itertools.pairwise(epochs)):
            raise ConfigError(
                f"OptimConfig.unfreeze: the phases begin at the epochs {', '.join(f'{epoch:g}' for epoch in epochs)}; "
                "each must begin after the one before it. Sort them, and give each an epoch of its own"
            )
