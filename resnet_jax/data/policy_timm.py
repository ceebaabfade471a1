"""timm's RandAugment on bytes, on the host: `rand-mM-nN-mstdS-inc1`. NumPy in, NumPy out.

It differs from torchvision's in its operations and in three ways: each operation is left out with probability 1/2,
strengths vary around a mean, and what lies beyond the border has the mean colour of the images. `inc1` says that every
operation changes more with a larger strength. The results, and the order of random draws, are those of timm's
`rand_augment_transform` for PIL images.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageOps

from resnet_jax.config.augment import TIMM_MAGNITUDES

LEFT_OUT = 0.5
"""Probability that an operation is left out."""


class Drawn(NamedTuple):
    """What an operation needs.

    Attributes:
      share: the strength, from 0 to 1.
      rng: of the image.
      colour: what lies beyond the border, for Pillow.
    """

    share: float
    rng: np.random.Generator
    colour: Any

    def signed(self, most: float) -> float:
        """`share` of `most`, negative with probability 1/2."""
        value = self.share * most
        return -value if self.rng.random() > 0.5 else value

    def method(self) -> Image.Resampling:
        return (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)[int(self.rng.integers(0, 2))]


def rand_augment_timm(
    image: UInt8[np.ndarray, "H W C"],
    rng: np.random.Generator,
    operations: int,
    magnitude: int,
    spread: float,
    colour: Sequence[int],
) -> UInt8[np.ndarray, "H W C"]:
    """`operations` operations in a row, each with probability 1/2.

    Args:
      magnitude: mean strength, from 0 to 10.
      spread: standard deviation of the strength.
      colour: what is shown beyond the borders, a number for each channel.
    """
    grey = image.shape[-1] == 1
    pixels = Image.fromarray(image[..., 0] if grey else image)
    fill = colour[0] if grey else tuple(colour)
    for number in [int(rng.integers(0, len(OPERATIONS))) for _ in range(operations)]:
        if rng.random() > LEFT_OUT:
            continue
        strength = rng.normal(magnitude, spread) if spread else float(magnitude)
        share = max(0.0, min(strength, TIMM_MAGNITUDES)) / TIMM_MAGNITUDES
        pixels = list(OPERATIONS.values())[number](pixels, Drawn(share, rng, fill))
    return np.asarray(pixels).reshape(image.shape)


def _moved(matrix: Callable[[Image.Image, Drawn], Sequence[float]]) -> "Operation":
    def move(image: Image.Image, drawn: Drawn) -> Image.Image:
        numbers = matrix(image, drawn)
        return image.transform(image.size, Image.Transform.AFFINE, numbers, drawn.method(), fillcolor=drawn.colour)

    return move


def _rotate(image: Image.Image, drawn: Drawn) -> Image.Image:
    degrees = drawn.signed(30)
    return image.rotate(degrees, drawn.method(), fillcolor=drawn.colour)


def _solarize_add(image: Image.Image, drawn: Drawn) -> Image.Image:
    """Adds to each dark value."""
    more = min(128, int(drawn.share * 110))
    table = [min(255, value + more) if value < 128 else value for value in range(256)]
    return image.point(table * len(image.getbands()))


def _enhanced(enhance: Callable[[Image.Image], Any]) -> "Operation":
    return lambda image, drawn: enhance(image).enhance(max(0.1, 1 + drawn.signed(0.9)))


Operation = Callable[[Image.Image, Drawn], Image.Image]

OPERATIONS: dict[str, Operation] = {
    "AutoContrast": lambda image, _: ImageOps.autocontrast(image),
    "Equalize": lambda image, _: ImageOps.equalize(image),
    "Invert": lambda image, _: ImageOps.invert(image),
    "Rotate": _rotate,
    "Posterize": lambda image, drawn: ImageOps.posterize(image, 4 - int(drawn.share * 4)),
    "Solarize": lambda image, drawn: ImageOps.solarize(image, 256 - min(256, int(drawn.share * 256))),
    "SolarizeAdd": _solarize_add,
    "Color": _enhanced(ImageEnhance.Color),
    "Contrast": _enhanced(ImageEnhance.Contrast),
    "Brightness": _enhanced(ImageEnhance.Brightness),
    "Sharpness": _enhanced(ImageEnhance.Sharpness),
    "ShearX": _moved(lambda image, drawn: (1, drawn.signed(0.3), 0, 0, 1, 0)),
    "ShearY": _moved(lambda image, drawn: (1, 0, 0, drawn.signed(0.3), 1, 0)),
    "TranslateX": _moved(lambda image, drawn: (1, 0, drawn.signed(0.45) * image.size[0], 0, 1, 0)),
    "TranslateY": _moved(lambda image, drawn: (1, 0, 0, 0, 1, drawn.signed(0.45) * image.size[1])),
}
