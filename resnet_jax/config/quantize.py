"""How a trained network is quantised. Standard library only."""

from dataclasses import dataclass
from typing import Annotated, Literal

from resnet_jax.config.checked import Checked, NotNegative, Range
from resnet_jax.errors import ConfigError

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


@dataclass(frozen=True, kw_only=True)
class Qat(QuantizeConfig):
    """Quantisation-aware training: the network of `start.weights` is folded, calibrated, and then trained with kernels
    and activations rounded as they will be in integers. Evaluation and prediction round them too."""

    images: Annotated[int, NotNegative] = 0
    """Images of the training set that calibrate, before the first update; 0 = the run is not quantised. 128 to 1024 are
    usual."""
    steps: Literal["fixed", "learned"] = "fixed"
    """Whether the steps of the grids stay as they were calibrated, which is enough for 8 bits, or are trained as well
    (LSQ, Esser et al. 2020, arXiv:1902.08153)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.images and self.bias_correction:
            raise ConfigError(
                "quantize.bias_correction = True: training moves the biases itself; leave it out, or quantise after "
                "training (python -m resnet_jax quantize)"
            )
