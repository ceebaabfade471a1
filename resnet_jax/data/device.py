"""Augmentation and normalisation inside the jitted step. Pure functions of jax arrays.

Every image has a random key of its own, made from the key of the step and the image's place in the global batch. So the
result does not depend on how the batch is spread over devices. Nothing in this file makes devices exchange data, except
mixing in groups that lie on several devices.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt8, UInt32

from resnet_jax.config import AugmentConfig, DataConfig, Preset
from resnet_jax.data.colour import add_lighting, jitter
from resnet_jax.data.mixing import box_mask, mix

ERASED_AREAS = (0.02, 0.33)
"""Area of a rectangle that is erased, as fractions of the image (torchvision's and the paper's)."""
ERASED_RATIOS = (0.3, 3.3)
"""Height to width of a rectangle that is erased."""
ERASE_TRIES = 10


def normalize(images: UInt8[Array, "N H W C"], preset: Preset) -> Float[Array, "N H W C"]:
    """Scales bytes to [0, 1], subtracts `preset.mean` and divides by `preset.std`, per channel, in float32."""
    return standardize(images.astype(jnp.float32) / 255, preset)


def augment(
    key: Key[Array, ""] | UInt32[Array, "2"],
    images: UInt8[Array, "N *T H W C"],
    labels: Int[Array, " N"],
    config: DataConfig,
    num_classes: int,
    positions: Int[Array, " N"] | None = None,
) -> tuple[Float[Array, "N *T H W C"], Float[Array, "N K"]]:
    """The input of the network for a training batch, after the steps of `config.augment` that run on the device.
    Clips (N, T, H, W, C) are changed as images are, all frames of a clip by the same draws.

    The order is: shift, flip, colour jitter, lighting, normalisation, erasing, mixing.

    Args:
      key: key of the step.
      num_classes: K.
      positions: places of the images in the global batch, where `images` are a part of it. The part must hold whole
        groups of `mix_group_size` consecutive images. None = from 0.
    Returns:
      Normalised float32 images and float32 targets, a distribution over the classes for each image.
    """
    image_key, mix_key = jax.random.split(key)
    places = jnp.arange(len(images)) if positions is None else positions
    keys = jax.vmap(partial(jax.random.fold_in, image_key))(places)
    change = partial(_augment_image, config=config)
    seen = jax.vmap(change if images.ndim == 4 else jax.vmap(change, (None, 0)))(keys, images)
    targets = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    return mix(mix_key, seen, targets, config.augment, positions) if config.augment.mixes else (seen, targets)


def _augment_image(key: Array, image: UInt8[Array, "H W C"], config: DataConfig) -> Float[Array, "H W C"]:
    options = config.augment
    shift_key, flip_key, jitter_key, lighting_key, erase_key = jax.random.split(key, 5)
    # Images are moved as bytes, which takes a quarter of the memory traffic of floats.
    if options.shift_pixels:
        image = _shift(shift_key, image, options.shift_pixels)
    if options.flip:
        image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
    pixels = image.astype(jnp.float32) / 255
    if options.brightness or options.contrast or options.saturation or options.hue:
        pixels = jitter(jitter_key, pixels, options.brightness, options.contrast, options.saturation, options.hue)
    if options.lighting:
        pixels = add_lighting(lighting_key, pixels, options.lighting)
    pixels = standardize(pixels, config.preset)
    return erase(erase_key, pixels, options) if options.erase_probability else pixels


def erase(key: Key[Array, ""], image: Float[Array, "H W C"], config: AugmentConfig) -> Float[Array, "H W C"]:
    """Covers a random rectangle with zeros or noise, with probability `config.erase_probability`.

    The law is torchvision's `RandomErasing` (Zhong et al. 2017, arXiv:1708.04896). It takes the first of ten rectangles
    that is smaller than the image in both directions. If none is, nothing is covered.
    """
    whether_key, area_key, ratio_key, place_key, noise_key = jax.random.split(key, 5)
    height, width, _ = image.shape
    low, high = ERASED_RATIOS
    areas = (
        height * width * jax.random.uniform(area_key, (ERASE_TRIES,), minval=ERASED_AREAS[0], maxval=ERASED_AREAS[1])
    )
    ratios = jnp.exp(jax.random.uniform(ratio_key, (ERASE_TRIES,), minval=math.log(low), maxval=math.log(high)))
    sides = jnp.stack([jnp.round(jnp.sqrt(areas * ratios)), jnp.round(jnp.sqrt(areas / ratios))]).astype(jnp.int32)
    fits = (sides[0] < height) & (sides[1] < width)
    sides = sides[:, jnp.argmax(fits)]  # the first rectangle that fits
    top, left = jax.random.randint(place_key, (2,), 0, jnp.array([height, width]) - sides + 1)
    inside = box_mask(height, width, top, top + sides[0], left, left + sides[1])
    erased = inside & fits.any() & jax.random.bernoulli(whether_key, config.erase_probability)
    cover = jax.random.normal(noise_key, image.shape) if config.erase_with == "noise" else jnp.zeros_like(image)
    return jnp.where(erased[..., None], cover, image)


def _shift(key: Array, image: UInt8[Array, "H W C"], margin: int) -> UInt8[Array, "H W C"]:
    padded = jnp.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    top, left = jax.random.randint(key, (2,), 0, 2 * margin + 1)
    return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)


def standardize(pixels: Float[Array, "*B H W C"], preset: Preset) -> Float[Array, "*B H W C"]:
    """Subtracts `preset.mean` from pixels in [0, 1] and divides by `preset.std`, per channel."""
    per_channel = (1,) * (pixels.ndim - 1) + (-1,)
    mean, std = (jnp.asarray(values, jnp.float32).reshape(per_channel) for values in (preset.mean, preset.std))
    return (pixels - mean) / std
