"""RandAugment and TrivialAugmentWide on bytes, on the host. NumPy in, NumPy out.

The operations, their strengths and the order of random draws are torchvision's for PIL images, with the bilinear
interpolation and the black border of its ImageNet recipes. The results are the same to the byte. `policy_timm.py` has
timm's RandAugment.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageOps

from resnet_jax.config import AugmentConfig
from resnet_jax.data.policy_timm import rand_augment_timm

BINS = 31
"""How many strengths of an operation there are."""


class Strengths(NamedTuple):
    """The strengths of an operation: one of `values`, and where `signed`, its negative with probability 1/2."""

    values: tuple[float, ...] = (0.0,)
    signed: bool = False


def apply_policy(
    image: UInt8[np.ndarray, "H W C"], rng: np.random.Generator, config: AugmentConfig, colour: Sequence[int]
) -> UInt8[np.ndarray, "H W C"]:
    """Applies `config.policy` to one image, which keeps its size.

    Args:
      colour: what `rand_augment_timm` shows beyond the borders of the image.
    """
    if config.policy == "trivial_augment_wide":
        return trivial_augment_wide(image, rng)
    if config.policy == "rand_augment":
        return rand_augment(image, rng, config.rand_operations, config.rand_magnitude)
    if config.policy == "rand_augment_timm":
        return rand_augment_timm(image, rng, config.rand_operations, config.rand_magnitude, config.rand_spread, colour)
    return image


def trivial_augment_wide(image: UInt8[np.ndarray, "H W C"], rng: np.random.Generator) -> UInt8[np.ndarray, "H W C"]:
    """One operation of the wide space at a strength drawn uniformly (Mueller & Hutter 2021, arXiv:2103.10158)."""
    name, strengths = _draw_operation(rng, wide_space())
    strength = strengths.values[int(rng.integers(0, BINS))] if len(strengths.values) > 1 else 0.0
    return apply_operation(name, image, _draw_sign(rng, strengths) * strength)


def rand_augment(
    image: UInt8[np.ndarray, "H W C"], rng: np.random.Generator, operations: int, magnitude: int
) -> UInt8[np.ndarray, "H W C"]:
    """Several operations in a row, all at strength `magnitude` of 0 to 30 (Cubuk et al. 2020, arXiv:1909.13719)."""
    space = rand_space(image.shape[0], image.shape[1])
    for _ in range(operations):
        name, strengths = _draw_operation(rng, space)
        strength = strengths.values[magnitude] if len(strengths.values) > 1 else 0.0
        image = apply_operation(name, image, _draw_sign(rng, strengths) * strength)
    return image


@lru_cache
def wide_space() -> dict[str, Strengths]:
    """Strengths of TrivialAugmentWide. Translations are in pixels, whatever the size of the image."""
    return _space(shear=0.99, translate_x=32, translate_y=32, rotate=135, enhance=0.99, posterize=6)


@lru_cache
def rand_space(height: int, width: int) -> dict[str, Strengths]:
    """Strengths of RandAugment for an image of this size."""
    # AutoAugment's 150 pixels are for its training images of 331 pixels.
    x, y = 150 / 331 * width, 150 / 331 * height
    return _space(shear=0.3, translate_x=x, translate_y=y, rotate=30, enhance=0.9, posterize=4)


def apply_operation(name: str, image: UInt8[np.ndarray, "H W C"], strength: float) -> UInt8[np.ndarray, "H W C"]:
    """Applies one of the operations of `wide_space` and `rand_space`."""
    pixels = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return np.asarray(OPERATIONS[name](pixels, strength)).reshape(image.shape)


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def _shear(strength: float) -> float:
    # torchvision goes by way of an angle in degrees: the same roundings are needed for the same bytes.
    return math.tan(math.radians(math.degrees(math.atan(strength))))


OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "Identity": lambda image, _: image,
    "ShearX": lambda image, strength: _affine(image, 1, _shear(strength), 0, 0, 1, 0),
    "ShearY": lambda image, strength: _affine(image, 1, 0, 0, _shear(strength), 1, 0),
    "TranslateX": lambda image, strength: _affine(image, 1, 0, -int(strength), 0, 1, 0),
    "TranslateY": lambda image, strength: _affine(image, 1, 0, 0, 0, 1, -int(strength)),
    "Rotate": lambda image, strength: image.rotate(strength, Image.Resampling.BILINEAR),
    "Brightness": lambda image, strength: ImageEnhance.Brightness(image).enhance(1 + strength),
    "Color": lambda image, strength: ImageEnhance.Color(image).enhance(1 + strength),
    "Contrast": lambda image, strength: ImageEnhance.Contrast(image).enhance(1 + strength),
    "Sharpness": lambda image, strength: ImageEnhance.Sharpness(image).enhance(1 + strength),
    "Posterize": lambda image, strength: ImageOps.posterize(image, int(strength)),
    "Solarize": lambda image, strength: ImageOps.solarize(image, math.ceil(strength)),
    "AutoContrast": lambda image, _: ImageOps.autocontrast(image),
    "Equalize": lambda image, _: ImageOps.equalize(image),
}


def _space(
    *, shear: float, translate_x: float, translate_y: float, rotate: float, enhance: float, posterize: int
) -> dict[str, Strengths]:
    lost_bits = np.round(np.arange(BINS, dtype=np.float32) / np.float32((BINS - 1) / posterize))
    signed = {
        "ShearX": shear,
        "ShearY": shear,
        "TranslateX": translate_x,
        "TranslateY": translate_y,
        "Rotate": rotate,
        **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), enhance),
    }
    return {
        "Identity": Strengths(),
        **{name: Strengths(_evenly(0, high), signed=True) for name, high in signed.items()},
        "Posterize": Strengths(tuple(8 - lost_bits)),
        "Solarize": Strengths(_evenly(255, 0)),
        "AutoContrast": Strengths(),
        "Equalize": Strengths(),
    }


def _evenly(first: float, last: float) -> tuple[float, ...]:
    """`torch.linspace` in float32 to the bit. A translation is cut to whole pixels, so the last bit counts.

    torch counts from both ends with a rounded step, and rounds each value once more.
    """
    low, high = np.float32(first), np.float32(last)
    step = float((high - low) / np.float32(BINS - 1))
    i = np.arange(BINS)
    values = np.where(i < BINS // 2, float(low) + step * i, float(high) - step * i[::-1])
    return tuple(values.astype(np.float32).tolist())


def _draw_operation(rng: np.random.Generator, space: dict[str, Strengths]) -> tuple[str, Strengths]:
    return list(space.items())[int(rng.integers(0, len(space)))]


def _draw_sign(rng: np.random.Generator, strengths: Strengths) -> int:
    return -1 if strengths.signed and rng.integers(0, 2) else 1
