"""From the bytes of an image file to pixels, as evaluation needs them: by Pillow, as torchvision does it."""

import io
import os

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from resnet_jax.data.orientation import orientation, upright, upright_shape
from resnet_jax.errors import ImageError

_CONVERTED = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")
"""Pillow's modes that Pillow converts to grey and to RGB as a viewer would."""
_BY_WAY_OF = {"La": "LA", "RGBa": "RGBA", "LAB": "RGB"}  # Pillow converts these only in two steps
_BITS_PER_SAMPLE = 258  # TIFF's tag

MAX_PIXELS = 80_000_000
"""A file that claims more pixels is refused before memory is spent on it. It is damaged, or made to exhaust memory."""


def decode_image(
    data: bytes | str | os.PathLike[str], channels: int, *, name: str | None = None, exif: bool = False
) -> UInt8[np.ndarray, "H W C"]:
    """Decodes a file (its path or its bytes) of any format that Pillow reads into 1 or 3 channels.

    As in torchvision's loader: palettes are looked up, CMYK and grey become RGB, RGB becomes grey by ITU-R 601, alpha
    is dropped, the first frame of an animation counts, and EXIF orientation is ignored. Two things differ: grey of 12
    or 16 bits is scaled to 8 and not clipped, and pixels without a known white (fractions, 32 bits) are refused.

    Args:
      name: what to call the image in an error; by default the path.
      exif: turn it upright, as EXIF says.
    Raises:
      ImageError: a missing, truncated or otherwise unreadable image, or one of more than `MAX_PIXELS` pixels.
    """
    name = name or ("the image" if isinstance(data, bytes) else os.fspath(data))
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as file:
            check_pixels(*file.size[::-1], name)
            return image_pixels(file, channels, name, exif=exif)
    except ImageError:
        raise
    except Exception as error:  # Pillow's plugins raise anything from OSError to SyntaxError on broken files
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else f"{error}"
        if data == b"":
            reason = "it is empty, 0 bytes"
        raise ImageError(
            f"cannot read {name}: {reason}; it must be a complete image file such as JPEG, PNG or WebP. "
            "Correct the path, or replace or remove the file"
        ) from error


def image_pixels(
    image: Image.Image, channels: int, name: str = "the image", *, exif: bool = False
) -> UInt8[np.ndarray, "H W C"]:
    """The pixels of an open image as 1 or 3 channels, by the rules of `decode_image`, whose errors it raises."""
    turned = orientation(image) if exif else 1
    white = _white_of_deep_grey(image)
    if white is not None:
        image = Image.fromarray(np.round(np.asarray(image) * (255 / white)).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # as Pillow asks: a direct conversion to RGB gives the same with a warning
    elif image.mode in _BY_WAY_OF:
        image = image.convert(_BY_WAY_OF[image.mode])
    elif image.mode not in _CONVERTED:
        kind = {"I": "32-bit or signed whole numbers", "F": "fractions"}.get(image.mode, "an unknown kind of pixels")
        raise ImageError(
            f"cannot read {name}: it holds {kind} (Pillow's mode {image.mode}), and does not say which is white; it "
            "must have 8 or 16 bits for each channel. Convert it, or remove the file"
        )
    pixels = np.asarray(image.convert({1: "L", 3: "RGB"}[channels]))
    return upright(pixels.reshape(*pixels.shape[:2], channels), turned)


def _white_of_deep_grey(image: Image.Image) -> int | None:
    """The value of white in a grey image of more than 8 bits. None for all others, and where white is not known."""
    if image.mode == "I" and image.format in ("PPM", "PNG"):
        return 65535  # these formats have at most 16 bits, and Pillow has scaled their values to 16
    if not image.mode.startswith("I;16"):
        return None
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))  # a TIFF may have 12 bits
    return 2 ** min(int(bits[0]), 16) - 1


def to_channels(image: UInt8[np.ndarray, "H W K"], channels: int, *, name: str) -> UInt8[np.ndarray, "H W C"]:
    """Pixels that need no decoding, with the network's number of channels: grey is repeated, RGB becomes grey.

    Raises:
      ImageError: neither 1 nor 3 channels, or not bytes.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        remedy = "Convert it, dropping an alpha channel if there is one"
        if image.ndim == 3 and image.shape[0] in (1, 3) and image.shape[2] not in (1, 3):
            remedy = "Its channels first are PyTorch's layout: convert it by np.transpose(image, (1, 2, 0))"
        raise ImageError(
            f"{name} is a {image.dtype} array of shape {image.shape}; it must be uint8 (H, W, 1) or (H, W, 3). {remedy}"
        )
    if image.shape[2] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=-1)
    return np.asarray(Image.fromarray(image).convert("L"))[..., None]


def image_size(path: str | os.PathLike[str], *, exif: bool = False) -> tuple[int, int]:
    """Height and width of an image, from the header of its file.

    Args:
      exif: of the image turned upright, as EXIF says.
    Raises:
      ImageError: a missing file or one that is no image, or an image of more than `MAX_PIXELS` pixels.
    """
    try:
        with Image.open(path) as file:
            width, height = file.size
            turned = orientation(file) if exif else 1
    except Exception as error:  # Pillow's plugins raise anything from OSError to SyntaxError on broken files
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else f"{error}"
        raise ImageError(
            f"cannot read {path}: {reason}; it must be an image file. Correct the path, or replace or remove the file"
        ) from error
    check_pixels(height, width, os.fspath(path))
    return upright_shape(height, width, turned)


def check_pixels(height: int, width: int, name: str) -> None:
    """Raises an ImageError for more than `MAX_PIXELS` pixels."""
    if height * width > MAX_PIXELS:
        raise ImageError(
            f"cannot read {name}: it would have {height} x {width} pixels, more than {MAX_PIXELS:,}; such a file is "
            "taken for damaged or for a decompression bomb. Shrink or remove it"
        )
