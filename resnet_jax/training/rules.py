"""Rules of optimizers that optax lacks, or has in another form."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

LEAST_NORM, LEAST_GRADIENT_NORM = 1e-3, 1e-6
"""Of a filter and of its gradient, in adaptive clipping (timm's and the paper's)."""
NEWTON_SCHULZ, LEAST_UPDATE_NORM = (3.4445, -4.7750, 2.0315), 1e-7
"""Muon's numbers. The polynomial grows small singular values fast, and does not bring any of them to exactly 1."""
ADAMW_SIZE = 0.2
"""The root mean square of the numbers of AdamW's steps, at a learning rate of 1 (Liu et al. 2025, section 2.2)."""
Rule = Callable[[PyTree[Array]], PyTree[Array]]
OnWhole = Callable[[Rule], Rule]
"""From a function of whole arrays to one of arrays that may be split over the devices."""


def adaptive_clip(factor: float) -> optax.GradientTransformation:
    """Scales the gradient of each filter down to `factor` times the norm of the filter, where it is longer (Brock et
    al. 2021, arXiv:2102.06171, equation 3, as timm's `adaptive_clip_grad`).

    A filter is what makes one output: the last axis of a kernel counts them. A scale or bias is one filter as a whole.
    """

    def norm(x: Array) -> Array:
        axes = tuple(range(x.ndim - 1)) if x.ndim > 1 else None
        return jnp.sqrt(jnp.sum(jnp.square(x), axis=axes, keepdims=True))

    def clip(gradient: Array, parameter: Array) -> Array:
        most, length = factor * jnp.maximum(norm(parameter), LEAST_NORM), norm(gradient)
        return jnp.where(length < most, gradient, gradient * (most / jnp.maximum(length, LEAST_GRADIENT_NORM)))

    return optax.stateless(lambda updates, params: jax.tree.map(clip, updates, params))


def lars_by_norms(
    coefficient: float, decay_of: Callable[[PyTree], PyTree[float]], adapts: Callable[[PyTree], PyTree[bool]]
) -> optax.GradientTransformation:
    """Adds the decay to a gradient, and gives the sum a length relative to the parameters (You et al. 2017,
    arXiv:1708.03888, equation 6, as in MLPerf's reference): `(g + d w) * c |w| / (|g| + d |w|)`. Where |w| or |g| is 0
    the sum is left as it is.

    optax measures by `|g + d w|` instead.

    Args:
      coefficient: c, of the trust.
      decay_of: from the parameters to the decay d of each.
      adapts: the parameters that the second factor is for.
    """

    def step(gradient: Array, parameter: Array, decay: float, adapted: bool) -> Array:
        total = gradient + decay * parameter if decay else gradient
        if not adapted:
            return total
        length, of_gradient = (jnp.sqrt(jnp.sum(jnp.square(x))) for x in (parameter, gradient))
        measured = of_gradient + decay * length
        usable = (length > 0) & (of_gradient > 0)
        return total * jnp.where(usable, coefficient * length / jnp.where(usable, measured, 1), 1)

    def scale(updates: PyTree, params: PyTree) -> Any:
        return jax.tree.map(step, updates, params, decay_of(params), adapts(params))

    return optax.stateless(scale)


def orthogonal(steps: int, on_whole: OnWhole = lambda rule: rule) -> optax.GradientTransformation:
    """Gives each kernel the nearest matrix that changes all directions alike, scaled to the size of AdamW's steps: Muon
    (Jordan et al. 2024, kellerjordan.github.io/posts/muon; the size is that of Liu et al. 2025, arXiv:2502.16982).

    A kernel (*S, I, O) counts as a matrix (S I, O). The nearest one is found by an iteration of products. This rule has
    no state. optax's `contrib.scale_by_muon` keeps the numbers of its polynomial there, and a state is set to 0 where
    an optimizer starts anew (`step._restarted_if`).

    Args:
      steps: of this iteration. After 5, singular values that were at least 0.003 of the norm lie between 0.68 and 1.21.
        After 3, those that were at least 0.03.
      on_whole: how the products get whole kernels, where updates are split over the devices.
    """

    def of_kernel(update: Float[Array, "*S O"]) -> Float[Array, "*S O"]:
        matrix = update.reshape(-1, update.shape[-1])
        is_tall = matrix.shape[0] > matrix.shape[1]
        x = matrix.T if is_tall else matrix  # its products with itself are small then
        x = x / jnp.maximum(jnp.linalg.norm(x), LEAST_UPDATE_NORM)
        a, b, c = NEWTON_SCHULZ
        for _ in range(steps):
            square = x @ x.T
            x = a * x + (b * square + c * square @ square) @ x
        size = ADAMW_SIZE * math.sqrt(max(matrix.shape))
        return (size * (x.T if is_tall else x)).reshape(update.shape)

    rule = on_whole(partial(jax.tree.map, of_kernel))
    return optax.stateless(lambda updates, _: rule(updates))
