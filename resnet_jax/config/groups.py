"""Groups of parameters in a config. Standard library only."""

from dataclasses import dataclass
from typing import Annotated

from resnet_jax.config.checked import Checked, NotNegative, Pattern


@dataclass(frozen=True, kw_only=True)
class Group(Checked):
    """Parameters with a rate of their own: `pattern` is searched in paths such as `layer1_0/conv1/kernel`."""

    pattern: Annotated[str, Pattern()]
    rate: Annotated[float, NotNegative] = 1.0
    """Factor of the learning rate. 0 = frozen: no gradient, no optimizer state, and norms keep their statistics."""
    decay: Annotated[float, NotNegative] | None = None
    """Replaces `weight_decay`; None = `weight_decay`."""
