"""From a file or its bytes to the uint8 image that the host hands to the device. NumPy in, NumPy out.

Images are (H, W, C) uint8 arrays in RGB order, with C = 1 (grey) or 3. Evaluation has the bytes of Pillow, as
torchvision's published accuracies do. The random crop of training is a little faster and less exact.
"""

import math
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from resnet_jax.config.preset import Interpolation, Preset
from resnet_jax.data.decode import check_pixels, decode_image, image_pixels, to_channels
from resnet_jax.data.jpeg import decode_box, decode_exactly, read_frame
from resnet_jax.data.orientation import orientation, stored_box, upright, upright_shape
from resnet_jax.data.resample import Box, height_first, resample

ASPECT_RATIOS = (3 / 4, 4 / 3)
"""Width to height of a random crop (Szegedy et al. 2015, section 6)."""
CROP_TRIES = 10

CropInterpolation = Literal["bilinear", "bicubic", "random"]


def decode_random_crop(
    image: bytes | UInt8[np.ndarray, "H W K"],
    rng: np.random.Generator,
    size: int,
    min_area: float,
    channels: int,
    *,
    name: str,
    exif: bool = False,
) -> UInt8[np.ndarray, "S S C"]:
    """`random_resized_crop` of an encoded or decoded image. It decodes no more of the image than the crop needs.

    Args:
      exif: of the image turned upright, as EXIF says.

    Raises:
      ImageError: as `decode_image`; the error names the image by `name`.
    """
    out = np.empty((size, size, channels), np.uint8)
    random_crop_into(out, image, rng, min_area, name=name, exif=exif)
    return out


def random_crop_into(
    out: UInt8[np.ndarray, "S S C"],
    image: bytes | UInt8[np.ndarray, "H W K"],
    rng: np.random.Generator,
    min_area: float,
    *,
    name: str,
    exif: bool = False,
    interpolation: CropInterpolation = "bilinear",
) -> None:
    """`decode_random_crop` into existing memory, such as a row of a batch.

    Args:
      interpolation: as `AugmentConfig.crop_interpolation`.
    """
    channels = out.shape[2]
    frame = read_frame(image) if isinstance(image, bytes) else None
    if frame is None:
        pixels = decode(image, channels, name=name, exif=exif)
        top, left, height, width = random_crop_box(rng, pixels.shape[0], pixels.shape[1], min_area)
        crop = pixels[top : top + height, left : left + width]
    else:
        assert isinstance(image, bytes)
        turned = orientation(image) if exif else 1
        box = random_crop_box(rng, *upright_shape(frame.height, frame.width, turned), min_area)
        stored = stored_box(box, frame.height, frame.width, turned)
        crop = upright(decode_box(image, frame, stored, out.shape[0], channels, name=name), turned)
    resize_crop_into(out, crop, interpolation, rng)


def decode(
    image: bytes | UInt8[np.ndarray, "H W K"], channels: int, *, name: str, exif: bool = False
) -> UInt8[np.ndarray, "H W C"]:
    """The pixels of an image that a source gave as the bytes of a file or as pixels. Raises `ImageError`.

    Args:
      exif: turn the image of a file upright, as EXIF says.
    """
    if not isinstance(image, bytes):
        return to_channels(image, channels, name=name)
    pixels = decode_exactly(image, channels, name=name)
    if pixels is None:
        return decode_image(image, channels, name=name, exif=exif)
    return upright(pixels, orientation(image)) if exif else pixels


def random_resized_crop(
    image: UInt8[np.ndarray, "H W C"], rng: np.random.Generator, size: int, min_area: float
) -> UInt8[np.ndarray, "S S C"]:
    """Crops a random area (`min_area` to 1 of the image) of random aspect ratio, resized to `size` x `size` pixels.

    The law is that of Szegedy et al. 2015, section 6, as torchvision's `RandomResizedCrop` has it.
    """
    out = np.empty((size, size, image.shape[2]), np.uint8)
    top, left, height, width = random_crop_box(rng, image.shape[0], image.shape[1], min_area)
    resize_square_into(out, image[top : top + height, left : left + width])
    return out


def resize_crop_into(
    out: UInt8[np.ndarray, "S S C"],
    image: UInt8[np.ndarray, "H W C"],
    interpolation: CropInterpolation,
    rng: np.random.Generator,
) -> None:
    """Resizes a random crop to a square, as `AugmentConfig.crop_interpolation` says."""
    if interpolation == "bilinear":
        resize_square_into(out, image)
        return
    size = len(out)
    out[...] = resize_window(image, (size, size), draw_interpolation(interpolation, rng), (0, 0, size, size))


def draw_interpolation(interpolation: CropInterpolation, rng: np.random.Generator) -> Interpolation:
    """Of an image: the given one, or `bilinear` or `bicubic` at random."""
    if interpolation != "random":
        return interpolation
    return ("bilinear", "bicubic")[int(rng.integers(0, 2))]


def resize_square_into(out: UInt8[np.ndarray, "S S C"], image: UInt8[np.ndarray, "H W C"]) -> None:
    """Resizes an image to a square, fast.

    It is bilinear. Where it shrinks more than twofold it is also antialiased; up to there two taps per side leave out
    no pixel.
    """
    size = len(out)
    if image.shape == out.shape:
        out[...] = image
    elif max(image.shape[:2]) > 2 * size:
        resample(image, (size, size), out=out)
    else:
        resized = cv2.resize(image, (size, size), dst=out)
        if not np.shares_memory(resized, out):
            out[...] = resized.reshape(out.shape)


def random_crop_box(rng: np.random.Generator, height: int, width: int, min_area: float) -> Box:
    """Draws `(top, left, height, width)` with the law and the order of draws of torchvision's `RandomResizedCrop`."""
    low, high = ASPECT_RATIOS
    for _ in range(CROP_TRIES):
        area = height * width * rng.uniform(min_area, 1.0)
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
    # No box fitted, as happens with extreme shapes. Take the largest central box with an allowed aspect ratio.
    w = min(width, round(height * high))
    h = min(height, round(width / low))
    return (height - h) // 2, (width - w) // 2, h, w


def resize_and_center_crop(image: UInt8[np.ndarray, "H W C"], preset: Preset) -> UInt8[np.ndarray, "h w C"]:
    """Resizes the shorter side to `preset.resize` pixels (antialiased) and takes the central square of `preset.crop`,
    if there is one.

    The bytes are those that torchvision's `Resize(resize)` and `CenterCrop(crop)` make of a PIL image. Where the
    resized image is smaller than the square, it is padded with zeros. `normalize` does the rest, on the device.
    """
    size = preset.crop
    shape = shape_of(image.shape, preset)
    box = center_box(shape, preset)
    image = resize_window(image, shape, preset.interpolation, box, antialias=preset.antialias)
    if not size or min(image.shape[:2]) == size:
        return image
    margins = [((size - side) // 2, (size - side + 1) // 2) for side in image.shape[:2]]
    return np.pad(image, [*margins, (0, 0)])


def shape_of(shape: tuple[int, ...], preset: Preset) -> tuple[int, int]:
    """Height and width of an image of this shape once it is resized as `preset` says.

    Raises:
      ImageError: as `resize_short_side`.
    """
    if preset.exact:
        return preset.exact
    return (preset.resize, preset.resize) if preset.squash else resized_shape(shape, preset.resize)


def center_box(shape: tuple[int, int], preset: Preset) -> Box:
    """The central square of a resized image, or as much of it as there is; the whole image without a crop."""
    size = preset.crop
    if not size:
        return (0, 0, *shape)
    middle = math.floor if preset.crop_rounds_down else round
    top, left = (max(middle((side - size) / 2), 0) for side in shape)
    height, width = (min(side, size) for side in shape)
    return top, left, height, width


def resize_short_side(
    image: UInt8[np.ndarray, "H W C"], size: int, interpolation: Interpolation = "bilinear"
) -> UInt8[np.ndarray, "h w C"]:
    """Resizes the shorter side to `size` pixels, as torchvision's `Resize` does a PIL image.

    Raises:
      ImageError: the image is so long that the result would have more than `decode.MAX_PIXELS` pixels.
    """
    shape = resized_shape(image.shape, size)
    return resize_window(image, shape, interpolation, (0, 0, *shape))


def resized_shape(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Height and width of an image of this shape once its shorter side is resized to `size`, as torchvision has it.

    Raises:
      ImageError: as `resize_short_side`.
    """
    height, width = shape[:2]
    short, long = sorted((height, width))
    resized_long = int(size * long / short)  # truncated, as in torchvision
    resized = (size, resized_long) if height <= width else (resized_long, size)
    check_pixels(*resized, name=f"an image of {height} x {width} pixels, resized to {size} on its shorter side")
    return resized


def resize_window(
    image: UInt8[np.ndarray, "H W C"],
    shape: tuple[int, int],
    interpolation: Interpolation,
    window: Box,
    *,
    antialias: bool = True,
) -> UInt8[np.ndarray, "h w C"]:
    """A window of an image resized to `shape`: antialiased with Pillow's bytes, or without as torch's `interpolate`."""
    top, left, height, width = window
    if shape == image.shape[:2]:
        return image[top : top + height, left : left + width]
    if not antialias:
        return _interpolated(image, shape, interpolation)[top : top + height, left : left + width]
    if not height_first(image.shape, shape):
        return resample(image, shape, interpolation, window=window)
    pixels = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    resized = np.asarray(pixels.resize(shape[::-1], Image.Resampling[interpolation.upper()]))
    return resized.reshape(*shape, -1)[top : top + height, left : left + width]


def _interpolated(
    image: UInt8[np.ndarray, "H W C"], shape: tuple[int, int], interpolation: Interpolation
) -> UInt8[np.ndarray, "h w C"]:
    """In float32, as torchvision resizes tensors: OpenCV's own arithmetic for bytes has eleven bits."""
    method = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}[interpolation]
    resized = cv2.resize(image.astype(np.float32), shape[::-1], interpolation=method)
    return np.clip(np.rint(resized), 0, 255).astype(np.uint8).reshape(*shape, -1)


def load_image(image: Any, preset: Preset) -> UInt8[np.ndarray, "H W C"]:
    """One image as evaluation sees it, before `normalize`.

    Args:
      image: a path, the bytes of a file, a PIL image or a uint8 array (H, W, 1) or (H, W, 3).

    Raises:
      DataError: a missing or unreadable file, or an array that is no image.
    """
    if isinstance(image, np.ndarray):
        pixels = to_channels(image, preset.channels, name="the image")
    elif isinstance(image, Image.Image):
        pixels = image_pixels(image, preset.channels, exif=preset.exif)
    else:
        pixels = decode_image(image, preset.channels, exif=preset.exif)
    return resize_and_center_crop(pixels, preset)


def colour_beside(mean: tuple[float, ...]) -> list[int]:
    """The bytes that lie beside an image, on a canvas or where it was moved: its mean colour."""
    return [round(255 * value) for value in mean]
