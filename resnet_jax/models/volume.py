"""Convolutions over space and time."""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


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
    if border:
        before, *sides = window["padding"]
        x = jnp.pad(x, [(0, 0), before, *[(0, 0)] * 3], mode="edge")
        window = {**window, "padding": [(0, 0), *sides]}
    return lax.conv_general_dilated(x, kernel, **window, precision=precision)
