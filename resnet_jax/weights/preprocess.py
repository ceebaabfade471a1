"""Prepares images as a published network expects them: with the arithmetic with which its accuracy was measured."""

from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from resnet_jax.weights.catalog import Preset


def preprocess(images: Any, preset: Preset, *, exif: bool = False) -> Float[np.ndarray, "N S S C"]:
    """Decodes, resizes, crops and normalises images, byte for byte as torchvision's evaluation transform of PIL images.

    As in torchvision, grey, palette and CMYK images become RGB, alpha is dropped, and EXIF orientation is ignored.

    Args:
      images: one image, or a list or tuple of images: a path, the bytes of a file, a PIL image or a uint8 array (H, W,
        3).
      preset: such as `find_weight_set("resnet50").preset`.
      exif: turn photographs upright first, as EXIF says how the camera was held.

    Raises:
      DataError: an image that cannot be read.
    """
    several = images if isinstance(images, (list, tuple)) else [images]
    pixels = np.stack([crop(image, preset, exif=exif) for image in several])
    mean, std = normalization(preset)
    return (pixels.astype(np.float32) / 255 - mean) / std


def crop(image: Any, preset: Preset, *, exif: bool = False) -> UInt8[np.ndarray, "S S C"]:
    """One image as `preprocess` makes it, before it is normalised."""
    from resnet_jax.data.transforms import resize_and_center_crop

    return resize_and_center_crop(
        _pixels(image, exif),
        preset.resize,
        preset.crop,
        preset.interpolation,
        squash=preset.squash,
        crop_rounds_down=preset.crop_rounds_down,
    )


def normalization(preset: Preset) -> tuple[Float[np.ndarray, "1 1 1 C"], Float[np.ndarray, "1 1 1 C"]]:
    """Mean and standard deviation per channel, for pixels in [0, 1]."""
    mean, std = (np.asarray(values, np.float32)[None, None, None] for values in (preset.mean, preset.std))
    return mean, std


def _pixels(image: Any, exif: bool) -> UInt8[np.ndarray, "H W 3"]:
    from PIL import Image

    from resnet_jax.data.decode import decode_image, image_pixels, to_channels

    if isinstance(image, np.ndarray):
        return to_channels(image, 3, name="the image")
    if isinstance(image, Image.Image):
        return image_pixels(image, 3, exif=exif)
    return decode_image(image, 3, exif=exif)
