"""The convolution of images. On CPUs its gradients have a form of their own inside of loops."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import jax
from jax import lax
from jaxtyping import Array, Float

from resnet_jax.models.forms import per_platform

Sides = tuple[tuple[int, int], ...]
_looping: ContextVar[bool] = ContextVar("looping", default=False)


@contextmanager
def inside_a_loop() -> Iterator[None]:
    """What is traced inside becomes the body of a loop or a branch. Its convolutions are differentiated backwards only.

    Gradients of convolutions are convolutions too, with other axes in the place of images and channels. XLA for CPUs
    brings axes into the order that its fast convolution needs, but not inside of loops (jax-ml/jax#12868). A step of
    `cifar_resnet20` with `accumulate = 2` took 6.2 seconds of the processor there, and 0.23 without parts. So on CPUs
    the gradients are written with the axes in this order. Grouped convolutions stay as they are.
    """
    token = _looping.set(True)
    try:
        yield
    finally:
        _looping.reset(token)


def is_looping() -> bool:
    """Whether what is traced now becomes the body of a loop."""
    return _looping.get()


def convolve(
    x: Float[Array, "N H W K"],
    kernel: Float[Array, "A B K2 C"],
    strides: tuple[int, ...],
    padding: Sides,
    dilations: tuple[int, ...],
    groups: int = 1,
    precision: Any = None,
) -> Float[Array, "N H2 W2 C"]:
    """A convolution.

    Args:
      padding: (before, after) of each axis.
    """
    plain, ordered = _forms(strides, padding, dilations, groups, precision)
    if is_looping() and groups == 1:
        return per_platform(x, kernel, cpu=ordered, default=plain)
    return plain(x, kernel)


@cache
def _forms(
    strides: tuple[int, ...], padding: Sides, dilations: tuple[int, ...], groups: int, precision: Any
) -> tuple[Callable[..., Array], Callable[..., Array]]:
    """Plain, and with ordered gradients. They are the same functions at each call: see `forms.per_platform`."""

    def convolution(x: Array, kernel: Array, strides: Any, padding: Any, apart: Any, dilations: Any) -> Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            window_strides=strides,
            padding=padding,
            lhs_dilation=apart,
            rhs_dilation=dilations,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
            precision=precision,
        )

    def plain(x: Array, kernel: Array) -> Array:
        return convolution(x, kernel, strides, padding, (1, 1), dilations)

    @jax.custom_vjp
    def ordered(x: Array, kernel: Array) -> Array:
        return plain(x, kernel)

    def forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
        return plain(x, kernel), (x, kernel)

    def backward(kept: tuple[Array, Array], back: Array) -> tuple[Array, Array]:
        x, kernel = kept
        of_x, of_kernel = [], []
        axes = zip(x.shape[1:3], back.shape[1:3], kernel.shape[:2], strides, padding, dilations, strict=True)
        for side, out, taps, stride, (before, _), dilation in axes:
            reach, spread = (taps - 1) * dilation, (out - 1) * stride + 1  # of the kernel, and of `back`
            of_x.append((reach - before, side - spread + before))
            of_kernel.append((before, reach - side - before + spread))
        flipped = kernel[::-1, ::-1].swapaxes(2, 3)
        images, results = x.transpose(3, 1, 2, 0), back.transpose(1, 2, 0, 3)
        return (
            convolution(back, flipped, (1, 1), of_x, strides, dilations),
            convolution(images, results, dilations, of_kernel, (1, 1), strides).transpose(1, 2, 0, 3),
        )

    ordered.defvjp(forward, backward)
    return plain, ordered
