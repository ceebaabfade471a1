"""Masks for people and as files: which classes they show, and the classes as a palette PNG."""

from io import BytesIO
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from resnet_jax.analysis.colours import mask_palette


class Seen(NamedTuple):
    """A class on an image.

    Attributes:
      share: of the image's pixels.
      probability: how sure the network is, the mean over those pixels.
    """

    label: int
    share: float
    probability: float


def seen_on(mask: UInt8[np.ndarray, "H W"], probability: Float[np.ndarray, "H W"]) -> list[Seen]:
    """The classes that occur, those with the most pixels first."""
    pixels = np.bincount(mask.ravel())
    sure = np.bincount(mask.ravel(), weights=probability.ravel())
    labels = sorted(np.flatnonzero(pixels).tolist(), key=lambda label: -pixels[label])
    return [Seen(label, pixels[label] / mask.size, sure[label] / pixels[label]) for label in labels]


def mask_png(mask: UInt8[np.ndarray, "H W"], classes: int) -> bytes:
    """A PNG whose values are the classes, with a palette of their colours: what `pairs:` reads as a mask."""
    image = Image.fromarray(mask, mode="P")
    image.putpalette(np.array(mask_palette(classes), np.uint8).tobytes())
    return png(image)


def png(image: Image.Image) -> bytes:
    """The content of a PNG file."""
    content = BytesIO()
    image.save(content, "PNG")
    return content.getvalue()
