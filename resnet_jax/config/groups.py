"""Groups of parameters in a config. Standard library only."""

from dataclasses import dataclass
from typing import Annotated, Literal

from resnet_jax.config.checked import Checked, NotNegative, Pattern, Positive

Statistics = Literal["fixed", "moving"]
"""What a norm does whose parameters are all frozen. `fixed`: it normalises with its running statistics, and they stay
as they are, as in Keras with `trainable = False`. `moving`: it normalises with those of the batch, and the running
statistics follow, as in PyTorch where only `requires_grad` is False."""


@dataclass(frozen=True, kw_only=True)
class Group(Checked):
    """Parameters with a rate of their own: `pattern` is searched in paths such as `layer1_0/conv1/kernel`."""

    pattern: Annotated[str, Pattern()]
    rate: Annotated[float, NotNegative] = 1.0
    """Factor of the learning rate. 0 = frozen: no gradient and no optimizer state."""
    decay: Annotated[float, NotNegative] | None = None
    """Replaces `weight_decay`; None = `weight_decay`."""
    statistics: Statistics = "fixed"
    """BatchNorm's running statistics where `rate` is 0."""


@dataclass(frozen=True, kw_only=True)
class Unfreeze(Checked):
    """A later phase of training, in which other parameters are trained."""

    epoch: Annotated[float, Positive]
    """When the phase begins, in epochs since the start of the run."""
    level: str
    """What is trained from then on, as `OptimConfig.level`."""
