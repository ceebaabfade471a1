"""How a trained network is quantised. Standard library only."""

from dataclasses import dataclass
from typing import Annotated, Literal

from resnet_jax.config.checked import Checked, Range

Bits = Annotated[int, Range(low=2, high=8)]


@dataclass(frozen=True, kw_only=True)
class QuantizeConfig(Checked):
    """Integers in place of the kernels and activations of a network."""

    method: Literal["minmax", "percentile", "mse"] = "mse"
    """How the range of a tensor follows from what calibration saw: all of it; without the outermost numbers; or the
    range with the least squared error."""
    percentile: Annotated[float, Range(above=50, below=100)] = 99.99
    """Of method percentile: this many per cent of the numbers lie below the upper end of the range, and as many above
    the lower end."""
    weight_bits: Bits = 8
    """Of the integers of a kernel."""
    activation_bits: Bits = 8
    """Of the integers of an activation."""
    keep_float: tuple[str, ...] = ()
    """Layers such as layer1_0/conv2 or fc, or blocks such as layer1_0, that stay as they are."""
    bias_correction: bool = False
    """Subtract from each bias the mean error that quantisation makes in its channel."""
