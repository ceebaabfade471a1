"""Augmentation and normalisation inside the jitted step. Pure functions of jax arrays.

Every image has a random key of its own, so that the result does not depend on how the batch is spread over devices,
and nothing here makes devices talk to each other.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8, UInt32

from resnet_jax.config import DataConfig


def normalize(images: UInt8[Array, "N H W C"], config: DataConfig) -> Float[Array, "N H W C"]:
    """Scales bytes to [0, 1], subtracts `config.mean` and divides by `config.std`, per channel, in float32."""
    mean = jnp.asarray(config.mean, jnp.float32).reshape(1, 1, 1, -1)
    std = jnp.asarray(config.std, jnp.float32).reshape(1, 1, 1, -1)
    return (images.astype(jnp.float32) / 255 - mean) / std


def augment(
    key: Key[Array, ""] | UInt32[Array, "2"], images: UInt8[Array, "N H W C"], config: DataConfig
) -> Float[Array, "N H W C"]:
    """Shifts each image by up to `config.shift_pixels` (the border repeats), mirrors it with odds 1/2, and normalises.

    He et al. 2015, section 4.2. The images are moved as bytes: a quarter of the memory traffic of floats.
    """

    def move(key: Array, image: UInt8[Array, "H W C"]) -> UInt8[Array, "H W C"]:
        shift_key, flip_key = jax.random.split(key)
        if config.shift_pixels:
            margin = config.shift_pixels
            padded = jnp.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
            top, left = jax.random.randint(shift_key, (2,), 0, 2 * margin + 1)
            image = jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)
        if config.flip:
            image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
        return image

    if config.shift_pixels or config.flip:
        images = jax.vmap(move)(jax.random.split(key, len(images)), images)
    return normalize(images, config)
