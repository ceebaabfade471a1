"""Images and pictures as text that a page holds in itself."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import UInt8
from PIL import Image

QUALITY = 82  # of JPEG
LOSSLESS = 32  # pixels of a side
CELLS = 1024  # images on one sheet: browsers on phones refuse pictures of more than about 16 million pixels


def data_uri(content: bytes, kind: str) -> str:
    """The content of a file of this MIME type as a `data:` address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def picture(image: UInt8[np.ndarray, "H W C"], *, lossless: bool) -> str:
    """An image as a `data:` address: PNG or JPEG."""
    content = io.BytesIO()
    if lossless:
        Image.fromarray(_squeezed(image)).save(content, "PNG", optimize=True)
        return data_uri(content.getvalue(), "image/png")
    Image.fromarray(_squeezed(image)).save(content, "JPEG", quality=QUALITY)
    return data_uri(content.getvalue(), "image/jpeg")


def drawn(plot: Callable[[Path], None]) -> str:
    """The PNG that `plot` writes to the path it is given, as a `data:` address."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        plot(path)
        return data_uri(path.read_bytes(), "image/png")


def thumbnails(images: UInt8[np.ndarray, "N S S C"], side: int) -> UInt8[np.ndarray, "N T T C"]:
    """The images with at most `side` pixels; smaller ones as they are."""
    if images.shape[1] <= side:
        return images
    small = [
        np.asarray(Image.fromarray(_squeezed(image)).resize((side, side), Image.Resampling.BOX)) for image in images
    ]
    return np.stack(small).reshape(len(images), side, side, images.shape[-1])


def sheets(images: UInt8[np.ndarray, "N S S C"]) -> list[str]:
    """The images side by side on square sheets of at most CELLS images, row by row, as `data:` addresses."""
    columns = columns_of(len(images))
    found = []
    for start in range(0, len(images), columns * columns):
        here = images[start : start + columns * columns]
        rows = -(-len(here) // columns)
        padded = np.pad(here, ((0, rows * columns - len(here)), (0, 0), (0, 0), (0, 0)))
        cells = padded.reshape(rows, columns, *images.shape[1:]).swapaxes(1, 2)
        sheet = cells.reshape(rows * images.shape[1], columns * images.shape[2], -1)
        found.append(picture(sheet, lossless=is_small(images)))
    return found


def is_small(images: UInt8[np.ndarray, "N S S C"]) -> bool:
    """Whether images are kept as they are: JPEG would blur so few pixels."""
    return images.shape[1] <= LOSSLESS


def columns_of(count: int) -> int:
    """Images beside each other on a sheet."""
    return min(int(np.ceil(np.sqrt(count))), int(np.sqrt(CELLS)))


def _squeezed(image: UInt8[np.ndarray, "H W C"]) -> np.ndarray:
    return np.ascontiguousarray(image[..., 0] if image.shape[-1] == 1 else image)
