"""Random changes of colour inside the jitted step, on one image with values in [0, 1]."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in grey: ITU-R 601, with the digits that torchvision uses for floats."""

# The eigenvalues are used as published, although one would expect their square roots beside a normal number.
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
"""Of the covariance of ImageNet's colours: rows red, green, blue; a column per component (facebook/fb.resnet.torch)."""


def jitter(
    key: Key[Array, ""], image: Float[Array, "H W C"], brightness: float, contrast: float, saturation: float, hue: float
) -> Float[Array, "H W C"]:
    """Changes brightness, contrast, saturation and hue in a random order, by torchvision's `ColorJitter` law.

    The first three factors are uniform in [max(0, 1 - strength), 1 + strength]. The hue turns by a fraction uniform in
    [-hue, hue]. A strength of 0 leaves its operation out. The result of each operation is clipped to [0, 1].
    """
    ranges: list[tuple[Callable[[Array, Array], Array], float, float]] = [
        (adjust_brightness, max(0.0, 1 - brightness), 1 + brightness),
        (adjust_contrast, max(0.0, 1 - contrast), 1 + contrast),
        (adjust_saturation, max(0.0, 1 - saturation), 1 + saturation),
        (adjust_hue, -hue, hue),
    ]
    ranges = [(adjust, low, high) for adjust, low, high in ranges if low < high]
    operations, lows, highs = zip(*ranges, strict=True)
    order_key, factor_key = jax.random.split(key)
    factors = jax.random.uniform(factor_key, (len(ranges),), minval=jnp.array(lows), maxval=jnp.array(highs))
    for i in jax.random.permutation(order_key, len(ranges)):
        image = jax.lax.switch(i, operations, image, factors[i])
    return image


def adjust_brightness(image: Float[Array, "H W C"], factor: Float[Array, ""]) -> Float[Array, "H W C"]:
    """Factor 0 gives black, 1 the image."""
    return _blend(image, jnp.zeros_like(image), factor)


def adjust_contrast(image: Float[Array, "H W C"], factor: Float[Array, ""]) -> Float[Array, "H W C"]:
    """Factor 0 gives the mean grey of the image, 1 the image."""
    return _blend(image, jnp.mean(_grey(image), keepdims=True), factor)


def adjust_saturation(image: Float[Array, "H W C"], factor: Float[Array, ""]) -> Float[Array, "H W C"]:
    """Factor 0 gives the image in grey, 1 the image."""
    return _blend(image, _grey(image), factor)


def adjust_hue(image: Float[Array, "H W 3"], turn: Float[Array, ""]) -> Float[Array, "H W 3"]:
    """Turns each pixel's hue by a fraction of the circle of HSV; its saturation and value stay."""
    red, green, blue = jnp.moveaxis(image, -1, 0)
    value = jnp.max(image, axis=-1)
    chroma = value - jnp.min(image, axis=-1)
    divisor = jnp.where(chroma == 0, 1, chroma)
    sixths = jnp.where(
        value == red,
        (green - blue) / divisor,
        jnp.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    # Over the circle each channel is a trapezoid. Green follows red by 4 sixths, blue follows red by 2.
    phases = (sixths + 6 * turn)[..., None] + jnp.array([5.0, 3.0, 1.0]).reshape(1, 1, 3)
    phases = phases % 6
    return value[..., None] - chroma[..., None] * jnp.clip(jnp.minimum(phases, 4 - phases), 0, 1)


def add_lighting(key: Key[Array, ""], image: Float[Array, "H W 3"], std: float) -> Float[Array, "H W 3"]:
    """Adds one random colour to the whole image: normal noise along the principal components of ImageNet's colours.

    Krizhevsky et al. 2012, section 4.1; He et al. 2015, section 3.4, use it too. Nothing is clipped.
    """
    amounts = std * jax.random.normal(key, (3,)) * jnp.array(EIGENVALUES)
    return image + (jnp.array(EIGENVECTORS) @ amounts).reshape(1, 1, 3)


def _blend(image: Array, other: Array, factor: Array) -> Array:
    return jnp.clip(factor * image + (1 - factor) * other, 0, 1)


def _grey(image: Float[Array, "H W C"]) -> Float[Array, "H W 1"]:
    weights = jnp.array(LUMA if image.shape[-1] == 3 else (1.0,)).reshape(1, 1, -1)
    return jnp.sum(image * weights, axis=-1, keepdims=True)
