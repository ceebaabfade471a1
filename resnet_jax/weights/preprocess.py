"""Prepares images as a published network expects them: with the arithmetic with which its accuracy was measured."""

from typing import Any

import numpy as np
from jaxtyping import Float

from resnet_jax.config import Preset
from resnet_jax.errors import DataError


def preprocess(images: Any, preset: Preset) -> Float[np.ndarray, "N H W C"]:
    """Decodes, resizes, crops and normalises images, byte for byte as torchvision's evaluation transform of PIL images.

    As in torchvision, grey, palette and CMYK images become RGB, alpha is dropped, and EXIF orientation is ignored,
    unless `preset.exif` is set.

    Args:
      images: one image, or a list or tuple of images: a path, the bytes of a file, a PIL image or a uint8 array (H, W,
        3).
      preset: such as `find_weight_set("resnet50").preset`.

    Raises:
      DataError: an image that cannot be read, or several that are of different shapes without a crop.
    """
    from resnet_jax.data import load_image  # with OpenCV and Numba, which conversion can do without

    several = images if isinstance(images, (list, tuple)) else [images]
    loaded = [load_image(image, preset) for image in several]
    if len(shapes := sorted({image.shape[:2] for image in loaded})) > 1:
        raise DataError(
            f"the images are of {len(shapes)} shapes, such as {shapes[0]} and {shapes[1]}, since this preset cuts out "
            "no square; prepare them one at a time"
        )
    pixels = np.stack(loaded)
    # As `data.normalize`, but in NumPy: XLA multiplies by 1/255, and the last bits are no longer torchvision's.
    mean, std = (np.asarray(values, np.float32) for values in (preset.mean, preset.std))
    return (pixels.astype(np.float32) / 255 - mean) / std
