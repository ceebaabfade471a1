"""Networks in integers of 2 to 8 bits."""

from resnet_jax.compress.quantize.calibrate import Quantized, calibrate, in_float32, quantize
from resnet_jax.compress.quantize.network import QuantizedNetwork, fake_quantized, integer_variables
from resnet_jax.compress.quantize.placement import placed, with_kernels
from resnet_jax.compress.quantize.scales import Grid, Scales
from resnet_jax.compress.quantize.trained import FakeQuantized

__all__ = [
    "FakeQuantized",
    "Grid",
    "Quantized",
    "QuantizedNetwork",
    "Scales",
    "calibrate",
    "fake_quantized",
    "in_float32",
    "integer_variables",
    "placed",
    "quantize",
    "with_kernels",
]
