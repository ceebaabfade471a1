"""From the bytes of a mask file to the class of each pixel."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Integer, Shaped, UInt8
from PIL import Image

from resnet_jax.data.decode import check_pixels
from resnet_jax.errors import ImageError

NOT_COUNTED = 255
"""The value of pixels that neither train nor count."""
MOST_CLASSES = 255
Colour = tuple[int, int, int]

_SHOWN = 4  # colours that an error names
_GREY_STEPS = {2: 85, 4: 17}  # Pillow stretches grey PNGs of 2 and 4 bits to 0..255, by these factors


@dataclass(frozen=True)
class MaskCode:
    """What the values of a data set's masks mean. It is the same for all its masks.

    Attributes:
      classes: how many classes there are. The values are 0 to classes - 1, and 255 where a pixel is not counted.
      binary: 255 is class 1, in masks of two classes. Then every pixel counts.
      colours: the class of each colour, for masks in colour. Empty = there are no such masks.
    """

    classes: int
    binary: bool = False
    colours: tuple[tuple[Colour, int], ...] = ()


def voc_colours(count: int = 256) -> list[Colour]:
    """Pascal VOC's colour of each class: bits 0, 1 and 2 of the number are the highest bits of red, green and blue,
    bits 3, 4 and 5 the next ones, and so on (VOCdevkit's `VOClabelcolormap`). The colour of 255 is not counted."""
    return [
        (
            sum((number >> 3 * j & 1) << 7 - j for j in range(3)),
            sum((number >> 3 * j + 1 & 1) << 7 - j for j in range(3)),
            sum((number >> 3 * j + 2 & 1) << 7 - j for j in range(3)),
        )
        for number in range(count)
    ]


def decode_mask(data: bytes, code: MaskCode, *, name: str) -> UInt8[np.ndarray, "H W"]:
    """The class of each pixel of a mask file.

    The values of a palette PNG are its indices, whatever its colours are. Grey masks of 1 to 16 bits hold the classes
    themselves. Masks in colour are looked up in `code.colours`; where that is empty, red, green and blue must be equal.

    Raises:
      ImageError: a file that cannot be read, a colour without a class, or a value beyond the classes. The error names
        the mask by `name`.
    """
    values = read_values(data, name=name)
    if values.ndim == 3 and code.colours:
        return check_values(_look_up(values, code.colours, name), code.classes, name=name)
    values = _to_grey(values, name)
    if code.binary and values.dtype != bool:
        return _binary(values, name)
    return check_values(values, code.classes, name=name)


def check_values(values: Integer[np.ndarray, "H W"], classes: int, *, name: str) -> UInt8[np.ndarray, "H W"]:
    """The same values as bytes.

    Raises:
      ImageError: a value that is neither a class nor 255.
    """
    wrong = values[(values >= classes) & (values != NOT_COUNTED)]
    if len(wrong):
        raise ImageError(
            f"{name} holds the value {wrong.min()} ({len(wrong):,} pixels are too high); a mask's values must be "
            f"0..{classes - 1}, one for each of the {classes} classes, or 255 where a pixel is not counted. Correct "
            "the mask, or name all classes of the data set"
        )
    return values.astype(np.uint8)


def check_size(image: Sequence[int], mask: Sequence[int], *, name: str) -> None:
    """Raises an ImageError where a mask has not the height and width of its image."""
    if tuple(image[:2]) != tuple(mask[:2]):
        turned = tuple(image[:2]) == tuple(mask[1::-1])
        hint = ", or change data.exif if the camera was held on its side" if turned else ""
        raise ImageError(
            f"the mask of {name} has {mask[0]} x {mask[1]} pixels and the image {image[0]} x {image[1]}; they must be "
            f"equal, as each pixel has a class. Make the mask anew from its image{hint}"
        )


def read_values(data: bytes, *, name: str) -> Shaped[np.ndarray, "H W"] | UInt8[np.ndarray, "H W 3"]:
    """What a mask file holds: truth values (1 bit), whole numbers, or colours. Raises `ImageError`."""
    try:
        with Image.open(io.BytesIO(data)) as file:
            check_pixels(*file.size[::-1], name)
            mode, steps = file.mode, _GREY_STEPS.get(_grey_bits(data), 1)
            if mode in ("LA", "PA", "La"):
                return np.asarray(file)[..., 0]
            if mode in ("RGBA", "RGBX", "RGBa"):
                return np.asarray(file)[..., :3]
            if mode in ("1", "L", "P", "I", "RGB") or mode.startswith("I;16"):
                return np.asarray(file) // steps if steps > 1 else np.asarray(file)
    except ImageError:
        raise
    except Exception as error:  # Pillow's plugins raise anything from OSError to SyntaxError on broken files
        reason = "it is empty, 0 bytes" if data == b"" else str(error)
        raise ImageError(
            f"cannot read {name}: {reason}; a mask must be a complete image file, best a PNG. Replace it, or remove it "
            "with its image"
        ) from error
    raise ImageError(
        f"cannot read {name}: its pixels are of Pillow's mode {mode}; a mask must hold whole numbers or colours. "
        "Save it as a grey PNG whose values are the classes"
    )


def _grey_bits(data: bytes) -> int:
    """The bits of a pixel of a grey PNG (its header: ISO/IEC 15948, 11.2.2); 0 for all other files."""
    return data[24] if data[:4] == b"\x89PNG" and data[25:26] == b"\0" else 0


def _to_grey(values: Shaped[np.ndarray, "..."], name: str) -> Shaped[np.ndarray, "H W"]:
    """One number for each pixel. Masks in colour are grey if red, green and blue are equal."""
    if values.ndim == 2:
        return values
    if is_grey(values):
        return values[..., 0]
    raise ImageError(
        f"{name} is in colour ({some_colours(colours_of(values))}), and no class is known for its colours; a "
        "mask must be a palette or grey PNG whose values are the classes, or have Pascal VOC's colours, or classes.txt "
        "must give the colour of each class as NAME R G B. Write that file, or convert the masks"
    )


def is_grey(values: UInt8[np.ndarray, "H W 3"]) -> bool:
    """Whether red, green and blue are equal everywhere."""
    return bool((values == values[..., :1]).all())


def _binary(values: Integer[np.ndarray, "H W"], name: str) -> UInt8[np.ndarray, "H W"]:
    wrong = values[(values != 0) & (values != 255)]
    if len(wrong):
        raise ImageError(
            f"{name} holds the value {wrong.min()} ({len(wrong):,} pixels); the other masks have only 0 and 255, for "
            "the first and the second class, so this one must too. Write all masks in one way"
        )
    return (values == 255).astype(np.uint8)


def _look_up(values: UInt8[np.ndarray, "H W 3"], known: tuple[tuple[Colour, int], ...], name: str) -> np.ndarray:
    colours, classes = _table(known)
    numbers = _numbers(values)
    place = np.minimum(np.searchsorted(colours, numbers), len(colours) - 1)
    wrong = values[colours[place] != numbers]
    if len(wrong):
        raise ImageError(
            f"{name} has colours that belong to no class: {some_colours(colours_of(wrong))} ({len(wrong):,} pixels); "
            "every pixel must have the colour of a class, with no soft borders as resizing and JPEG make them. Correct "
            "the mask, or add the colour to classes.txt as NAME R G B, or as - R G B if it is not counted"
        )
    return classes[place]


@cache
def _table(known: tuple[tuple[Colour, int], ...]) -> tuple[np.ndarray, np.ndarray]:
    """Colours as sorted numbers, and the class of each."""
    numbers = _numbers(np.array([colour for colour, _ in known], np.uint8))
    order = np.argsort(numbers)
    return numbers[order], np.array([label for _, label in known], np.uint8)[order]


def _numbers(colours: UInt8[np.ndarray, "*shape 3"]) -> Integer[np.ndarray, "*shape"]:
    return colours.astype(np.int32) @ np.array([65536, 256, 1], np.int32)


def colours_of(values: UInt8[np.ndarray, "*shape 3"]) -> set[Colour]:
    """All colours that occur."""
    numbers = np.unique(_numbers(values))
    return {(int(n) >> 16, int(n) >> 8 & 255, int(n) & 255) for n in numbers}


def some_colours(colours: Iterable[Colour]) -> str:
    """A few colours for the text of an error, and how many more there are."""
    found = sorted(colours)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(map(str, found[:_SHOWN])) + more
