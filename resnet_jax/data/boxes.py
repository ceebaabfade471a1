"""Objects in images: boxes with classes and, where there are any, bitmaps. What is wrong with them, and how they move.

A box is x1, y1, x2, y2 in pixels: pixel (row, column) covers column to column + 1 and row to row + 1.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from resnet_jax.data.decode import check_pixels
from resnet_jax.errors import ImageError

EMPTY = -1
"""The class of a place that holds no object."""
_SHOWN = 10  # annotations that an error names

Size = tuple[int, int]
"""Height and width in pixels."""


class Bitmap(NamedTuple):
    """The pixels of an object, in a window of its image.

    Attributes:
      top, left: the first row and column of the window.
      pixels: 1 where the object is.
    """

    top: int
    left: int
    pixels: UInt8[np.ndarray, "h w"]


class Objects(NamedTuple):
    """The n objects of an image, without empty places.

    Attributes:
      classes: from 1; 0 is the background.
      crowd: regions of many objects, or such as are not judged. Nothing is trained on them, and what is found in them
        is neither right nor wrong.
      area: in pixels; of the bitmap, or if there is none, of the box. The file may say another.
      bitmaps: empty if there are none.
      ids: what to call each in an error.
    """

    boxes: Float[np.ndarray, "n 4"]
    classes: Int[np.ndarray, " n"]
    crowd: Bool[np.ndarray, " n"]
    area: Float[np.ndarray, " n"]
    bitmaps: Sequence[Bitmap]
    ids: Sequence[str]

    def taken(self, which: Bool[np.ndarray, " n"]) -> "Objects":
        """Those of the objects that `which` names."""
        kept = np.flatnonzero(which).tolist()
        bitmaps = [self.bitmaps[i] for i in kept] if self.bitmaps else ()
        ids = [self.ids[i] for i in kept]
        return Objects(self.boxes[kept], self.classes[kept], self.crowd[kept], self.area[kept], bitmaps, ids)


def objects_of(example: Mapping[str, Any]) -> Objects:
    """The objects of an example, as its source gives them: `boxes` and `classes`, and if there are any `crowd`, `area`,
    `instances` and `ids`. Places of class -1 are left out.

    `instances` are bitmaps, or an array with one for each place, whose first pixel is the first of its box's window.
    """
    classes = np.asarray(example["classes"], np.int32)
    boxes = np.asarray(example["boxes"], np.float64).reshape(-1, 4)
    here = np.flatnonzero(classes != EMPTY)
    masks = example.get("instances", ())
    if isinstance(masks, np.ndarray):
        masks = [_bitmap_at(box, mask) for box, mask in zip(boxes[here], masks[here], strict=True)]
    boxes, classes = boxes[here], classes[here]
    crowd, area = example.get("crowd"), example.get("area")
    if area is None:
        sides = boxes[:, 2:] - boxes[:, :2]
        area = [float(mask.pixels.sum()) for mask in masks] if len(masks) else sides.prod(axis=1)
    return Objects(
        boxes,
        classes,
        np.zeros(len(here), bool) if crowd is None else np.asarray(crowd, bool)[here],
        np.asarray(area, np.float64),
        masks,
        example.get("ids") or [f"box {place}" for place in here],
    )


def window_of(box: Float[np.ndarray, " 4"]) -> tuple[int, int, int, int]:
    """The rows and columns that a box touches: first row, first column, row and column behind the last."""
    left, top = (math.floor(value) for value in box[:2])
    right, bottom = (math.ceil(value) for value in box[2:])
    return top, left, bottom, right


def _bitmap_at(box: Float[np.ndarray, " 4"], mask: UInt8[np.ndarray, "S S"]) -> Bitmap:
    top, left, bottom, right = window_of(box)
    return Bitmap(top, left, mask[: bottom - top, : right - left])


def checked_objects(example: Mapping[str, Any], shape: Sequence[int], classes: int, *, masks: bool) -> Objects:
    """The objects of an example, if all of them can be trained on.

    Args:
      shape: of the image; height and width come first.
      classes: how many there are, the background among them.
      masks: whether they are used.

    Raises:
      ImageError: annotations of an image of another size, a box of no area or outside the image, a class that there is
        not, or a mask that is not where its box is. It names the first of them, and how many there are.
    """
    check_annotated(example, shape)
    name = example["name"]
    objects = objects_of(example if masks else {**example, "instances": ()})
    if found := problems(objects, shape, classes):
        raise ImageError(explained(name, found))
    return objects


def check_annotated(example: Mapping[str, Any], shape: Sequence[int]) -> None:
    """Raises an ImageError where the annotations of an example are of an image of another size."""
    name, told = example["name"], example.get("shape")
    if told is not None and tuple(told) != tuple(shape[:2]):
        turned = ", or change data.exif if the camera was held on its side" if told[::-1] == tuple(shape[:2]) else ""
        raise ImageError(
            f"{name} has {shape[1]} x {shape[0]} pixels, and its annotations are of an image of {told[1]} x {told[0]} "
            f"(width x height). Bring the image that was annotated{turned}"
        )


def explained(name: str, found: Sequence[str]) -> str:
    """The text of an error about the annotations of an image."""
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"{name}: {'; '.join(found[:_SHOWN])}{more}. Correct or remove them in the annotations"


def problems(objects: Objects, shape: Sequence[int], classes: int) -> list[str]:
    """What is wrong with each object that cannot be trained on."""
    height, width = shape[:2]
    found = []
    for place, (name, box, label) in enumerate(zip(objects.ids, objects.boxes, objects.classes, strict=True)):
        x1, y1, x2, y2 = box.tolist()
        shown = f"({x1:g}, {y1:g}, {x2:g}, {y2:g})"
        if not np.isfinite(box).all():
            found.append(f"{name} has the box {shown}, which is not finite")
        elif x2 <= x1 or y2 <= y1:
            turned = x2 < x1 or y2 < y1
            hint = ", and looks like x, y, width, height" if turned and _as_sides(box, height, width) else ""
            found.append(f"{name} has the box {shown}, which has no area: x1 < x2 and y1 < y2 must hold{hint}")
        elif x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
            found.append(f"{name} has the box {shown}, outside the image of {width} x {height} (width x height)")
        elif not 1 <= label < classes:
            found.append(f"{name} has the class {label}, which must be from 1 to {classes - 1}")
        elif objects.bitmaps and not _mostly_inside(objects.bitmaps[place], box):
            found.append(f"{name} has its mask elsewhere than its box {shown}: most of its pixels are outside, or none")
    return found


def reaching_out(objects: Objects, shape: Sequence[int]) -> list[str]:
    """The objects whose boxes reach beyond the image by more than a pixel. Training cuts them off at its border."""
    limits = np.array([0, 0, shape[1], shape[0]])
    beyond = np.concatenate([limits[:2] - objects.boxes[:, :2], objects.boxes[:, 2:] - limits[2:]], axis=1).max(1)
    return [objects.ids[place] for place in np.flatnonzero(beyond > 1).tolist()]


def _as_sides(box: Float[np.ndarray, " 4"], height: int, width: int) -> bool:
    """Whether a box makes sense in its image if its last numbers are width and height."""
    x, y, wide, high = box.tolist()
    return min(wide, high) > 0 and min(x, y) >= 0 and x + wide <= width + 1 and y + high <= height + 1


def _mostly_inside(bitmap: Bitmap, box: Float[np.ndarray, " 4"]) -> bool:
    top, left, bottom, right = window_of(box)
    rows = slice(max(top - bitmap.top, 0), max(bottom - bitmap.top, 0))
    columns = slice(max(left - bitmap.left, 0), max(right - bitmap.left, 0))
    return 2 * int(bitmap.pixels[rows, columns].sum()) > int(bitmap.pixels.sum())


def detection_shape(shape: Sequence[int], min_size: int, max_size: int) -> Size:
    """Height and width of an image once its shorter side has `min_size` pixels, but its longer one at most `max_size`.

    It is torchvision's `GeneralizedRCNNTransform`, whose lengths are rounded down.

    Raises:
      ImageError: the result would have more than `decode.MAX_PIXELS` pixels, or a side of none.
    """
    height, width = shape[:2]
    scale = min(min_size / min(height, width), max_size / max(height, width))
    resized = math.floor(height * scale), math.floor(width * scale)
    return checked_shape(resized, f"an image of {height} x {width} pixels, resized to {min_size} or {max_size}")


def checked_shape(shape: Size, what: str) -> Size:
    """The same shape. Raises an ImageError where nothing would be left, or too much."""
    if min(shape) < 1:
        raise ImageError(f"{what}, would have {shape[0]} x {shape[1]} pixels, and nothing is left. Remove it")
    check_pixels(*shape, name=what)
    return shape


def bitmap_in(
    bitmap: Bitmap,
    box: Float[np.ndarray, " 4"],
    side: int,
    *,
    original: Size,
    shape: Size,
    flip: bool = False,
    offset: tuple[int, int] = (0, 0),
) -> UInt8[np.ndarray, "S S"]:
    """The bitmap of an object after its image was mirrored, resized and cropped, in the window of its box there.

    The window (`window_of`) begins at the top left. Where it is at most S long its pixels are those of the image; each
    of them is the nearest one, as torch's `interpolate` takes it, which is how torchvision resizes masks. A longer axis
    is scaled to S, and a pixel is 1 where at least half of its area is.

    Args:
      box: of the object, in the crop.
      side: S.
      original: height and width of the image.
      shape: height and width of the resized image.
      flip: mirrored before that, left for right.
      offset: row and column of the resized image at which the crop begins.
    """
    top, left, bottom, right = window_of(box)
    rows = nearest(np.arange(top, bottom) + offset[0], original[0], shape[0])
    columns = nearest(np.arange(left, right) + offset[1], original[1], shape[1])
    if flip:
        columns = original[1] - 1 - columns
    rows, columns = rows - bitmap.top, columns - bitmap.left
    high, wide = bitmap.pixels.shape
    seen = ((rows >= 0) & (rows < high))[:, None] & (columns >= 0) & (columns < wide)
    if min(high, wide):
        pixels = np.where(seen, bitmap.pixels[rows.clip(0, high - 1)[:, None], columns.clip(0, wide - 1)], 0)
    else:
        pixels = np.zeros(seen.shape, np.uint8)
    out = np.zeros((side, side), np.uint8)
    size = min(bottom - top, side), min(right - left, side)
    if size != pixels.shape:
        pixels = cv2.resize(pixels.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA) >= 0.5
    out[: size[0], : size[1]] = pixels
    return out


def nearest(places: Int[np.ndarray, " n"], length: int, size: int) -> Int[np.ndarray, " n"]:
    """The pixel of a side that each pixel of the resized side shows, as torch's `interpolate(mode="nearest")`: it
    multiplies in float32 and rounds down."""
    if length == size:
        return places
    scaled = np.floor(places.astype(np.float32) * (np.float32(length) / np.float32(size)))
    return np.minimum(scaled.astype(np.int64), length - 1)
