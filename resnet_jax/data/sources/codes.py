"""Masks of objects as COCO's files write them, polygons and run-length codes, decoded as pycocotools decodes them."""

from array import array
from collections.abc import Sequence
from typing import Any, overload

import numpy as np

from resnet_jax.data.boxes import Bitmap, Size
from resnet_jax.errors import ImageError

Code = tuple[bytes, ...] | dict[str, Any]
"""Polygons, each the bytes of float64 x1, y1, x2, y2, ...; or a run-length code with `size` and `counts`."""


def read_code(segmentation: Any, shape: Size) -> Code:
    """A mask as a file writes it, checked as far as it can be without decoding it.

    Args:
      shape: height and width of its image.

    Raises:
      ValueError: it says what is wrong, in words that follow the name of the object.
    """
    height, width = shape
    if isinstance(segmentation, dict):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        if size is None or counts is None:
            raise ValueError("has a run-length code without size or counts")
        needs = f"and its image has {height} x {width} (height x width)"
        if list(size) != [height, width]:
            raise ValueError(f"has a run-length code of {size[0]} x {size[-1]}, {needs}")
        if isinstance(counts, list) and sum(counts) != height * width:
            raise ValueError(f"has a run-length code of {sum(counts)} pixels, {needs}")
        return {"size": [height, width], "counts": counts}
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("has an empty segmentation")
    polygons = []
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(
                f"has a polygon of {len(polygon) if isinstance(polygon, list) else 'no'} numbers; it must have x and y "
                "of at least three points"
            )
        polygons.append(array("d", polygon).tobytes())
    return tuple(polygons)


def decode_code(code: Code, shape: Size, name: str) -> Bitmap:
    """The pixels of a mask, in the smallest window that holds them.

    Raises:
      ImageError: a run-length code that is damaged.
    """
    from hotcoco import mask

    try:
        if isinstance(code, dict):
            packed = not isinstance(code["counts"], list)
            if packed and (total := _total(code["counts"])) != shape[0] * shape[1]:
                raise ValueError(f"its runs have {total} pixels, and its image {shape[0]} x {shape[1]}")
            whole = code if packed else mask.fr_py_objects(code, *shape)
        else:
            whole = mask.merge(mask.fr_py_objects([np.frombuffer(polygon).tolist() for polygon in code], *shape))
        pixels = mask.decode(whole)
    except (ValueError, TypeError, IndexError) as error:
        raise ImageError(
            f"cannot read {name}: {error}; it must be polygons or a run-length code as in COCO's files. Correct or "
            "remove the annotation"
        ) from error
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not len(rows):
        return Bitmap(0, 0, pixels[:0, :0])
    top, left = int(rows[0]), int(columns[0])
    return Bitmap(top, left, np.ascontiguousarray(pixels[top : rows[-1] + 1, left : columns[-1] + 1]))


def _total(counts: str | bytes) -> int:
    """The pixels of all runs of a packed run-length code (pycocotools' maskApi.c, `rleFrString`)."""
    data = counts.encode() if isinstance(counts, str) else counts
    runs: list[int] = []
    place = 0
    while place < len(data):
        value = shift = 0
        more = True
        while more:
            digit = data[place] - 48
            value |= (digit & 0x1F) << shift
            more, place, shift = bool(digit & 0x20), place + 1, shift + 5
        if digit & 0x10:
            value |= -1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    return sum(runs)


class Bitmaps(Sequence[Bitmap]):
    """The masks of an image, decoded when they are asked for."""

    def __init__(self, codes: Sequence[Code], shape: Size, name: str) -> None:
        self._codes, self._shape, self._name = codes, shape, name

    def __len__(self) -> int:
        return len(self._codes)

    @overload
    def __getitem__(self, index: int) -> Bitmap: ...
    @overload
    def __getitem__(self, index: slice) -> "Bitmaps": ...
    def __getitem__(self, index: int | slice) -> "Bitmap | Bitmaps":
        if isinstance(index, slice):
            return Bitmaps(self._codes[index], self._shape, self._name)
        return decode_code(self._codes[index], self._shape, self._name)
