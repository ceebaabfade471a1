"""The peak speeds of named devices, as their makers publish them."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Peak:
    """The peak speeds of one device.

    Attributes:
      flops_16: dense floating-point operations per second in bfloat16 or float16.
      flops_32: the same for float32 products at XLA's default precision: TF32 on GPUs that have it, bfloat16 on TPUs.
      bytes: bytes per second, from and to its memory.
    """

    flops_16: float
    flops_32: float
    bytes: float

    def flops(self, dtype: Any) -> float:
        return self.flops_16 if jnp.dtype(dtype).itemsize == 2 else self.flops_32


# By the beginning of JAX's `device_kind`. The first entry that fits counts.
PEAKS = {
    "NVIDIA H200": Peak(989e12, 495e12, 4.8e12),
    "NVIDIA H100 PCIe": Peak(756e12, 378e12, 2.0e12),
    "NVIDIA H100": Peak(989e12, 495e12, 3.35e12),
    "NVIDIA A100-SXM4-80GB": Peak(312e12, 156e12, 2.04e12),
    "NVIDIA A100 80GB PCIe": Peak(312e12, 156e12, 1.94e12),
    "NVIDIA A100": Peak(312e12, 156e12, 1.56e12),
    "NVIDIA L40S": Peak(362e12, 183e12, 0.86e12),
    "Tesla V100": Peak(125e12, 15.7e12, 0.9e12),
    "TPU v4": Peak(275e12, 275e12, 1.2e12),
    "TPU v5 lite": Peak(197e12, 197e12, 0.82e12),
    "TPU v5": Peak(459e12, 459e12, 2.77e12),
    "TPU v6 lite": Peak(918e12, 918e12, 1.64e12),
}


def peak_of(device: jax.Device) -> Peak | None:
    """The peak of a device. None if the table lacks the device, as for a CPU: then no share of a peak is reported."""
    return next((peak for kind, peak in PEAKS.items() if device.device_kind.startswith(kind)), None)


def training_flops(macs: int) -> int:
    """Floating-point operations of an image's forward and backward pass, from the multiply-accumulates of its forward
    pass. Each of these is two operations, and the gradients of input and kernel take as many as the layer itself.
    """
    return 3 * 2 * macs


def images_per_second_at_peak(macs: int, dtype: Any, devices: int) -> float | None:
    """Speed of training if all arithmetic of `devices` went into the network. None if their peak is not known."""
    peak = peak_of(jax.devices()[0])
    return devices * peak.flops(dtype) / training_flops(macs) if peak else None
