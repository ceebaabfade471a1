"""Steps of a grid that are learned: LSQ (Esser et al. 2020, arXiv:1902.08153)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from resnet_jax.compress.quantize.scales import MANTISSA

SMALLEST = 1e-12
"""A step that an update makes negative would mirror the numbers."""


def stepped(
    x: Float[Array, "*S"],
    scale: Float[Array, "*T"],
    low: Float[Array, ""] | float,
    high: Float[Array, ""] | float,
    *,
    numbers: int,
) -> Float[Array, "*S"]:
    """The nearest multiples of a step, from `low` times the step to `high` times. Halves go to the even multiple.

    The derivatives are those of LSQ, section 2.1. By x: 1 within, 0 beyond. By the step: `round(x / step) - x / step`
    within, `low` or `high` beyond; multiplied by `1 / sqrt(numbers * largest)` (section 2.2), where `largest` is the
    larger end. With a step that does not learn this is the straight-through estimator.

    Args:
      scale: the step; as many axes as `x`, or none.
      low, high: integers.
      numbers: how many numbers the step is for.
    """
    largest = jnp.maximum(high, -jnp.asarray(low, scale.dtype))
    scale = _with_derivative_times(jnp.maximum(scale, SMALLEST), jax.lax.rsqrt(numbers * largest))
    ratio = x / scale
    places = jnp.where((ratio > low) & (ratio < high), ratio, jax.lax.stop_gradient(jnp.clip(ratio, low, high)))
    # The difference and the sum are exact: `places` and its nearest integer are less than a factor of two apart, or one
    # of them is 0.
    return (places + jax.lax.stop_gradient(jnp.round(places) - places)) * scale


def shortened(scale: Float[Array, "*T"]) -> Float[Array, "*T"]:
    """The next step with at most `MANTISSA` bits, as `scales.short`. Its derivative is that of the step itself."""
    fixed = jax.lax.stop_gradient(scale)
    part, exponent = jnp.frexp(fixed)
    return scale + (jnp.ldexp(jnp.ceil(jnp.ldexp(part, MANTISSA)), exponent - MANTISSA) - fixed)


def _with_derivative_times(x: Array, factor: Array) -> Array:
    return jax.lax.stop_gradient(x) + (factor * x - jax.lax.stop_gradient(factor * x))
