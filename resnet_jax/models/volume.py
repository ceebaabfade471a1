"""Convolutions over space and time, in the form that is fast on each platform (see `forms.py`).

XLA's convolution of three axes is slow on CPUs. There the frames that a kernel sees are stacked in the channels, and a
convolution of two axes does the same product. `benchmarks/video_networks.py` measures both, beside PyTorch.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from resnet_jax.models.forms import per_platform


def volume(
    x: Float[Array, "N T H W K"],
    kernel: Float[Array, "A B C K2 D"],
    window: dict[str, Any],
    *,
    border: bool = False,
    precision: Any = None,
) -> Float[Array, "N T2 H2 W2 D"]:
    """A convolution of clips.

    Args:
      window: how the kernel moves, as `lax.conv_general_dilated` is told.
      border: repeat the first and the last frame instead of padding with zeros along time.
    """
    (before, after), *sides = window["padding"]
    if before or after:
        x = jnp.pad(x, [(0, 0), (before, after), *[(0, 0)] * 3], mode="edge" if border else "constant")
    stacked, convolution = _forms(
        *(tuple(window["window_strides"]), tuple(sides), tuple(window["rhs_dilation"])),
        *(window["feature_group_count"], precision),
    )
    return per_platform(x, kernel, cpu=stacked, default=convolution)


@cache
def _forms(
    strides: tuple[int, ...], sides: tuple[Any, ...], dilations: tuple[int, ...], groups: int, precision: Any
) -> tuple[Callable[..., Array], Callable[..., Array]]:
    """Two axes over stacked frames, and three axes. They are the same functions at each call: see `per_platform`."""
    (along, *across), (apart, *between) = strides, dilations

    def stacked(x: Array, kernel: Array) -> Array:
        depth, features = kernel.shape[0], kernel.shape[-1]
        count = (x.shape[1] - (depth - 1) * apart - 1) // along + 1
        frames = [
            lax.slice_in_dim(x, i * apart, i * apart + (count - 1) * along + 1, along, axis=1) for i in range(depth)
        ]
        # Each group has its own channels of all frames, one frame after the other, as its kernels have.
        of_groups = [frame.reshape(*frame.shape[:-1], groups, -1) for frame in frames]
        images = jnp.stack(of_groups, axis=-2).reshape(-1, *x.shape[2:4], depth * x.shape[-1])
        flat = jnp.moveaxis(kernel, 0, 2).reshape(*kernel.shape[1:3], -1, features)
        y = _image(images, flat)
        return y.reshape(x.shape[0], count, *y.shape[1:])

    def _image(images: Array, kernel: Array) -> Array:
        if kernel.shape[:2] == (1, 1) and groups == 1 and not any(map(any, sides)):
            seen = images[:, :: across[0], :: across[1]]
            y = jnp.matmul(seen.reshape(-1, seen.shape[-1]), kernel[0, 0], precision=precision)
            return y.reshape(*seen.shape[:-1], -1)
        return lax.conv_general_dilated(
            images,
            kernel,
            window_strides=across,
            padding=sides,
            rhs_dilation=between,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
            precision=precision,
        )

    def convolution(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            window_strides=strides,
            padding=((0, 0), *sides),
            rhs_dilation=dilations,
            dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
            feature_group_count=groups,
            precision=precision,
        )

    return stacked, convolution
