"""From a file or its bytes to the uint8 image that the network's host hands to the device. NumPy in, NumPy out.

Images are (H, W, C) uint8 arrays in RGB order, with C = 1 (grey) or 3. Decoding and evaluation go through Pillow, as
torchvision's published accuracies do; the random crop of training goes through OpenCV, which is faster.
"""

import io
import math
import os
from typing import Literal

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from resnet_jax.config import DataConfig
from resnet_jax.errors import DataError

# The pipeline runs one image per thread; OpenCV's own threads on top of those would only fight for the same cores.
cv2.setNumThreads(0)

ASPECT_RATIOS = (3 / 4, 4 / 3)
"""Of a random crop, width to height (Szegedy et al. 2015, section 6)."""
CROP_TRIES = 10


def decode_image(
    data: bytes | str | os.PathLike[str], channels: int, *, name: str | None = None
) -> UInt8[np.ndarray, "H W C"]:
    """Decodes a file (its path or its bytes) of any format that Pillow reads into 1 or 3 channels.

    As torchvision's loader does: palettes are looked up, CMYK and grey become RGB, RGB becomes grey by ITU-R 601, alpha
    is dropped, of an animation the first frame counts and EXIF orientation is ignored. Unlike there, 16-bit grey is
    scaled to 8 bits and not clipped.

    Args:
      name: what to call the image in an error; by default the path.
    Raises:
      DataError: a missing, truncated or otherwise unreadable image.
    """
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as file:
            image: Image.Image = file
            return image_pixels(image, channels)
    except Exception as error:  # Pillow's plugins raise anything from OSError to SyntaxError on broken files
        name = name or ("the image" if isinstance(data, bytes) else os.fspath(data))
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else f"{error}"
        raise DataError(
            f"cannot read {name}: {reason}; it must be a complete image file such as JPEG, PNG or WebP. "
            "Correct the path, or replace or remove the file"
        ) from error


def image_pixels(image: Image.Image, channels: int) -> UInt8[np.ndarray, "H W C"]:
    """The pixels of an open image as 1 or 3 channels, by the rules of `decode_image`."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # what Pillow asks for; straight to RGB it warns and gives the same
    pixels = np.asarray(image.convert({1: "L", 3: "RGB"}[channels]))
    return pixels.reshape(*pixels.shape[:2], channels)


def random_resized_crop(
    image: UInt8[np.ndarray, "H W C"], rng: np.random.Generator, size: int, min_area: float
) -> UInt8[np.ndarray, "S S C"]:
    """Crops a random area (`min_area` to 1 of the image) of random aspect ratio, resized to `size` x `size` pixels.

    The law is that of Szegedy et al. 2015, section 6, as torchvision's `RandomResizedCrop` has it.
    """
    top, left, height, width = random_crop_box(rng, image.shape[0], image.shape[1], min_area)
    crop = image[top : top + height, left : left + width]
    if (height, width) == (size, size):
        return crop
    # Averaging over areas keeps a reduction free of aliasing, as Pillow's filters do; an enlargement interpolates.
    shrinks = height > size and width > size
    resized = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return resized.reshape(size, size, image.shape[2])


def random_crop_box(rng: np.random.Generator, height: int, width: int, min_area: float) -> tuple[int, int, int, int]:
    """Draws `(top, left, height, width)` with the law and the order of draws of torchvision's `RandomResizedCrop`."""
    low, high = ASPECT_RATIOS
    for _ in range(CROP_TRIES):
        area = height * width * rng.uniform(min_area, 1.0)
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
    # No box fitted, as happens with extreme shapes: the largest central one of an allowed aspect ratio.
    w = min(width, round(height * high))
    h = min(height, round(width / low))
    return (height - h) // 2, (width - w) // 2, h, w


def resize_and_center_crop(
    image: UInt8[np.ndarray, "H W C"],
    resize: int,
    size: int,
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
) -> UInt8[np.ndarray, "S S C"]:
    """Resizes the shorter side to `resize` pixels (antialiased) and takes the central `size` x `size`.

    Byte for byte what torchvision's `Resize(resize)` and `CenterCrop(size)` make of a PIL image; where the resized
    image is smaller than `size`, it is padded with zeros.
    """
    height, width, channels = image.shape
    short, long = sorted((height, width))
    resized_long = int(resize * long / short)  # truncated, as there
    shape = (resize, resized_long) if height <= width else (resized_long, resize)
    if shape != (height, width):
        pixels = Image.fromarray(image[..., 0] if channels == 1 else image)
        image = np.asarray(pixels.resize(shape[::-1], Image.Resampling[interpolation.upper()])).reshape(
            *shape, channels
        )
    if min(shape) < size:
        margins = [(max(size - side, 0) // 2, (max(size - side, 0) + 1) // 2) for side in shape]
        image = np.pad(image, [*margins, (0, 0)])
    top, left = (round((side - size) / 2) for side in image.shape[:2])
    return image[top : top + size, left : left + size]


def load_image(path: str | os.PathLike[str], config: DataConfig) -> UInt8[np.ndarray, "S S C"]:
    """Reads one image file as evaluation sees it, `config.image_size` pixels square.

    Raises:
      DataError: a missing or unreadable file.
    """
    return resize_and_center_crop(decode_image(path, config.channels), config.eval_resize, config.image_size)
