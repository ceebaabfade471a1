"""Margins: what a loss makes of the cosine between an embedding and the centre of its own class.

Cosines are float32 at least. Near 1 and -1 the angle has an infinite derivative, so each law says how it stays finite.
"""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Gradient = Literal["true", "straight_through"]
Law = Callable[[Float[Array, " N"]], Float[Array, " N"]]
"""From the cosine of the own class to the number that takes its place."""

LEAST_SINE = 1e-4
"""The sine by which the derivative of an angle is divided is at least this."""
ADAFACE_EPSILON, ADAFACE_H = 1e-3, 0.333
"""As published: cosines stay this far from 1 and -1, and norms are divided by their deviation over `h`."""


def combined_margin(
    cosine: Float[Array, " N"], m1: float, m2: float, m3: float, gradient: Gradient = "true"
) -> Float[Array, " N"]:
    """`cos(m1 * angle + m2) - m3` (Deng et al. 2018, arXiv:1801.07698, equation 4).

    (1, 0.5, 0) is ArcFace, (1, 0, 0.35) CosFace (arXiv:1801.09414), (m1, 0, 0) SphereFace (arXiv:1704.08063) without
    its piecewise continuation. Where `m1 * angle + m2` exceeds pi the number rises again, as in insightface.

    Args:
      cosine: in [-1, 1].
      gradient: `"true"` = of this function, with sines below `LEAST_SINE` taken for it; `"straight_through"` =
        insightface's since 2022: the gradient of the cosine itself, as if there were no margin.
    """
    if (m1, m2) == (1.0, 0.0):
        moved = cosine
    else:
        angle = _angle(cosine)
        moved = jnp.cos(m1 * angle + m2)
    return cosine + lax.stop_gradient(moved - m3 - cosine) if gradient == "straight_through" else moved - m3


def adaface_margin(cosine: Float[Array, " N"], quality: Float[Array, " N"], margin: float) -> Float[Array, " N"]:
    """AdaFace (Kim et al. 2022, arXiv:2204.00964, equations 13 to 15): the margin depends on the norm of the embedding,
    which is small where an image shows little.

    Args:
      cosine: in [-1, 1].
      quality: in [-1, 1], see `quality_of`.
    """
    angle = _angle(jnp.clip(cosine, -1 + ADAFACE_EPSILON, 1 - ADAFACE_EPSILON))
    angle = jnp.clip(angle - margin * quality, ADAFACE_EPSILON, jnp.pi - ADAFACE_EPSILON)
    return jnp.cos(angle) - (margin + margin * quality)


def quality_of(norms: Float[Array, " N"], mean: Float[Array, ""], std: Float[Array, ""]) -> Float[Array, " N"]:
    """Norms of embeddings, measured by their running mean and deviation, in [-1, 1]. No gradient passes."""
    return lax.stop_gradient(jnp.clip((norms - mean) / (std + ADAFACE_EPSILON) * ADAFACE_H, -1.0, 1.0))


def _angle(cosine: Float[Array, " N"]) -> Float[Array, " N"]:
    """The arc cosine. Its value is exact everywhere. Its derivative, -1 / sine, stays finite."""
    within = jnp.clip(lax.stop_gradient(cosine), -1.0, 1.0)
    slope = -1 / jnp.maximum(jnp.sqrt(jnp.maximum(1 - within * within, 0.0)), LEAST_SINE)
    return lax.stop_gradient(jnp.arccos(within)) + slope * (cosine - lax.stop_gradient(cosine))
