"""The first convolution of a network for images of other channels than its weights were trained on, as in timm."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from resnet_jax.errors import WeightsError
from resnet_jax.weights.families import FAMILIES

RGB = 3


def adapt_input_conv(kernel: Float[Array | np.ndarray, "*S 3 O"], channels: int) -> Float[np.ndarray, "*S C O"]:
    """A first convolution for `channels` channels, made from that for RGB (timm's `adapt_input_conv`).

    For one channel it is the sum over the three: it gives for a grey image what that for RGB gives for three equal
    channels. For other numbers, channel i has the kernel of channel i modulo 3, times 3 / channels. As in timm, it is
    computed in float32.

    For a `space_to_depth` stem, adapt the 7x7 kernel first, then fold it.

    Raises:
      WeightsError: the kernel is not for three channels.
    """
    array = np.asarray(kernel)
    there = array.shape[-2]
    if there == channels:
        return array
    if there != RGB:
        raise WeightsError(
            f"the first convolution of the weights is for images of {there} channels, and {channels} are asked for; "
            f"only one for {RGB} channels can be made into another. Set channels (data.channels) to {there}, or take "
            "weights for RGB images"
        )
    single = array.astype(np.float32)
    if channels == 1:
        adapted = single.sum(axis=-2, keepdims=True)
    else:
        adapted = single[..., np.arange(channels) % RGB, :] * np.float32(RGB / channels)
    return adapted.astype(array.dtype)


def input_conv(arrays: Mapping[str, Any]) -> str:
    """The name of the kernel that reads the image, such as `params/conv1/kernel`, of arrays by name; empty = none."""
    below = lambda family: [""] if family.rooted else [f"{root}." for root in family.roots]
    stems = (f"{root}{stem}" for family in FAMILIES for root in below(family) for stem in family.stem)
    modules = (re.sub(r"\.(?=\d)", "_", stem).replace(".", "/") for stem in stems)
    names = (f"params/{module}/kernel" for module in modules)
    return next((name for name in names if name in arrays), "")
