"""Images as a published network expects them: the arithmetic by which its accuracy was measured."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from resnet_jax.weights.catalog import Preset

if TYPE_CHECKING:
    from PIL.Image import Image

    AnyImage = bytes | str | os.PathLike[str] | Image | UInt8[np.ndarray, "H W C"]


def preprocess(images: "AnyImage | Sequence[AnyImage]", preset: Preset) -> Float[np.ndarray, "N S S C"]:
    """Decodes, resizes, crops and normalises images, byte for byte as torchvision's evaluation transform of PIL images.

    As there, grey, palette and CMYK images become RGB, alpha is dropped, and EXIF orientation is ignored (call
    `PIL.ImageOps.exif_transpose` first to turn photographs upright).

    Args:
      images: one image or several: a path, the bytes of a file, a PIL image or a uint8 array (H, W, 3).
      preset: such as `find_weight_set("resnet50").preset`.

    Raises:
      DataError: an image that cannot be read.
    """
    from resnet_jax.data.transforms import resize_and_center_crop

    one = isinstance(images, (bytes, str, os.PathLike, np.ndarray)) or hasattr(images, "convert")
    pixels = np.stack(
        [
            resize_and_center_crop(_pixels(image), preset.resize, preset.crop, preset.interpolation)
            for image in ([images] if one else images)
        ]
    )
    mean, std = np.float32(preset.mean), np.float32(preset.std)
    return (pixels.astype(np.float32) / 255 - mean[None, None, None]) / std[None, None, None]


def _pixels(image: "AnyImage") -> UInt8[np.ndarray, "H W 3"]:
    from resnet_jax.data.transforms import decode_image, image_pixels

    if isinstance(image, np.ndarray):
        return image
    return image_pixels(image, 3) if hasattr(image, "convert") else decode_image(image, 3)
