"""Operations that are fast in another form on each platform. The form is chosen where a program is lowered.

So lowering for a platform that this machine does not have gives that platform's form. All forms of an operation compute
the same numbers, but for rounding (`tests/models/test_forms.py`). docs/performance.md has what each was chosen for.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

PLATFORMS = ("cpu", "cuda", "tpu")

# A platform whose forms are used on every platform. Tests set it, so that a CPU computes with what a TPU would use.
_forced: ContextVar[str | None] = ContextVar("forms", default=os.environ.get("RESNET_JAX_FORMS"))  # noqa: B039 (a string)


@contextmanager
def forms_of(platform: str) -> Iterator[None]:
    """What is traced inside has the forms of `platform` ("cpu", "cuda", "tpu"), whatever it is lowered for.

    A function that `jax.jit` has traced before keeps the forms that it has.
    """
    token = _forced.set(platform)
    try:
        yield
    finally:
        _forced.reset(token)


def per_platform(*arguments: Array, default: Callable[..., Any], **forms: Callable[..., Any]) -> Any:
    """`forms[platform](*arguments)`, or `default` where there is none, of the platform that the program is lowered for.

    Args:
      forms: by JAX's name of the platform: `cpu`, `cuda`, `tpu`. All give arrays of the same shapes and dtypes.
    """
    forced = _forced.get()
    if forced:
        return forms.get(forced, default)(*arguments)
    return lax.platform_dependent(*arguments, default=default, **forms)


def pointwise(x: Float[Array, "*N K"], kernel: Float[Array, "K C"], precision: Any = None) -> Float[Array, "*N C"]:
    """A 1x1 convolution of stride 1, of images (..., H, W, K).

    On CPUs a product of two matrices: there XLA's `dot` is faster than its `conv`, and of two dimensions it needs no
    transposed copy of the activations for the kernel's gradient. Elsewhere a convolution, which moves less memory. Of a
    product behind a strided slice, XLA for GPUs makes a Triton kernel that ends the process (openxla/xla#47381).
    """

    def product(x: Array, kernel: Array) -> Array:
        flat = jnp.matmul(x.reshape(-1, x.shape[-1]), kernel, precision=precision)
        return flat.reshape(*x.shape[:-1], kernel.shape[-1])

    def convolution(x: Array, kernel: Array) -> Array:
        y = lax.conv_general_dilated(
            x.reshape(-1, *x.shape[-3:]),
            kernel[None, None],
            window_strides=(1, 1),
            padding="VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=precision,
        )
        return y.reshape(*x.shape[:-1], kernel.shape[-1])

    return per_platform(x, kernel, cpu=product, default=convolution)
