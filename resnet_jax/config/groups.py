"""Groups of parameters in a config. Standard library only."""

from dataclasses import dataclass
from typing import Annotated

from resnet_jax.config.checked import Checked, NotNegative, Pattern


@dataclass(frozen=True, kw_only=True)
class Group(Checked):
    """Parameters in whose path, such as `layer1_0/conv1/kernel`, `pattern` is found: they are trained otherwise."""

    pattern: Annotated[str, Pattern()]
    rate: Annotated[float, NotNegative] = 1.0
    """Of the learning rate. 0 = frozen: neither gradient nor optimizer state, and norms keep their statistics."""
    decay: Annotated[float, NotNegative] | None = None
    """Instead of `weight_decay`; None = as the rest."""
