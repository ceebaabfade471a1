"""Convolutions over space and time, in the form that is fast on each platform (see `forms.py`).

XLA's convolution of three axes is slow on CPUs. There convolutions of two axes give the same numbers: over sums of
frames, two frames at a time (`winograd.py`); over the frames that a kernel sees, stacked in the channels; or over each
frame with the kernels of all, stacked in the features. `benchmarks/video_networks.py` measures them and XLA's own
convolution, beside PyTorch.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from resnet_jax.models.convolution import convolve, is_looping
from resnet_jax.models.forms import per_platform
from resnet_jax.models.winograd import has_many_pixels, in_pairs

MANY_PIXELS = 1024
"""Of all frames of a batch: with fewer, to add kernels takes longer than the products that it saves."""


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
    around, *sides = window["padding"]
    if border and any(around):
        x, around = jnp.pad(x, [(0, 0), tuple(around), *[(0, 0)] * 3], mode="edge"), (0, 0)
    flat, differentiated, convolution = _forms(
        *(tuple(window["window_strides"]), (tuple(around), *map(tuple, sides)), tuple(window["rhs_dilation"])),
        *(window["feature_group_count"], precision),
    )
    return per_platform(x, kernel, cpu=differentiated if is_looping() else flat, default=convolution)


@cache
def _forms(
    strides: tuple[int, ...], padding: tuple[Any, ...], dilations: tuple[int, ...], groups: int, precision: Any
) -> tuple[Callable[..., Array], ...]:
    """Two axes over images, the same as it is differentiated, and three axes. They are the same functions at each call:
    see `per_platform`."""
    (along, *across), (apart, *between) = strides, dilations
    around, *sides = padding

    def stacked(x: Array, kernel: Array) -> Array:
        """The frames that a kernel sees are stacked in the channels."""
        depth, features = kernel.shape[0], kernel.shape[-1]
        x = jnp.pad(x, [(0, 0), around, *[(0, 0)] * 3])
        count = (x.shape[1] - (depth - 1) * apart - 1) // along + 1
        frames = [
            lax.slice_in_dim(x, i * apart, i * apart + (count - 1) * along + 1, along, axis=1) for i in range(depth)
        ]
        # Each group has its own channels of all frames, one frame after the other, as its kernels have.
        of_groups = [frame.reshape(*frame.shape[:-1], groups, -1) for frame in frames]
        images = jnp.stack(of_groups, axis=-2).reshape(-1, *x.shape[2:4], depth * x.shape[-1])
        y = _image(images, jnp.moveaxis(kernel, 0, 2).reshape(*kernel.shape[1:3], -1, features))
        return y.reshape(x.shape[0], count, *y.shape[1:])

    def spread(x: Array, kernel: Array) -> Array:
        """Each frame is multiplied with the kernels of all frames at once, and the results are moved and added."""
        depth, length = kernel.shape[0], x.shape[1]
        count = length + sum(around) - (depth - 1) * apart
        own = jnp.moveaxis(kernel.reshape(*kernel.shape[:-1], groups, -1), 0, -2)
        y = _image(x.reshape(-1, *x.shape[2:]), own.reshape(*own.shape[:3], -1))
        y = y.reshape(x.shape[0], length, *y.shape[1:3], groups, depth, -1)
        moved = []
        for i in range(depth):
            later = i * apart - around[0]
            seen = y[:, max(later, 0) : max(min(count + later, length), 0), ..., i, :]
            before = min(max(-later, 0), count)
            moved.append(jnp.pad(seen, [(0, 0), (before, count - before - seen.shape[1]), *[(0, 0)] * 4]))
        total = sum(moved[1:], moved[0])
        return total.reshape(*total.shape[:4], -1)

    def paired(x: Array, kernel: Array) -> Array:
        """Two frames at a time."""

        def product(frames: Array, own: Array) -> Array:
            y = _image(frames.reshape(-1, *frames.shape[2:]), own)
            return y.reshape(*frames.shape[:2], *y.shape[1:])

        return in_pairs(x, kernel, around, product)

    def _image(images: Array, kernel: Array) -> Array:
        if kernel.shape[:2] == (1, 1) and groups == 1 and not any(map(any, sides)):
            seen = images[:, :: across[0], :: across[1]]
            y = jnp.matmul(seen.reshape(-1, seen.shape[-1]), kernel[0, 0], precision=precision)
            return y.reshape(*seen.shape[:-1], -1)
        return convolve(images, kernel, tuple(across), tuple(sides), tuple(between), groups, precision)

    # Only what is not differentiated is spread: that makes a training step slower.
    @jax.custom_jvp
    def flat(x: Array, kernel: Array) -> Array:
        # Few channels are soon stacked. Sums of 16-bit results would be rounded at each frame.
        moves = along == 1 and kernel.shape[0] > 1 and x.shape[-1] >= kernel.shape[-1] and x.dtype.itemsize > 2
        # The patches of a pixel need no copy, and then the sums of frames cost more than they save.
        if moves and (not pairs(x, kernel) or kernel.shape[1:3] == (1, 1)):
            return spread(x, kernel)
        return differentiated(x, kernel)

    @flat.defjvp
    def flat_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
        return jax.jvp(differentiated, primals, tangents)

    def differentiated(x: Array, kernel: Array) -> Array:
        return paired(x, kernel) if pairs(x, kernel) else stacked(x, kernel)

    def pairs(x: Array, kernel: Array) -> bool:
        fits = along == apart == 1 and kernel.shape[0] == 3 and x.dtype.itemsize > 2
        return fits and has_many_pixels(x, MANY_PIXELS)

    def convolution(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            window_strides=strides,
            padding=padding,
            rhs_dilation=dilations,
            dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
            feature_group_count=groups,
            precision=precision,
        )

    return flat, differentiated, convolution
