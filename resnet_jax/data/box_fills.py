"""How the host turns an image and the boxes of its objects into a row of a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from resnet_jax.data.boxes import (
    EMPTY,
    Objects,
    Size,
    bitmap_in,
    check_annotated,
    checked_objects,
    checked_shape,
    detection_shape,
)
from resnet_jax.data.canvases import Canvas, Canvases
from resnet_jax.data.fills import CROP, Draws, Leaves, Row
from resnet_jax.data.sources import Source
from resnet_jax.data.transforms import colour_beside, decode, resize_window
from resnet_jax.errors import ImageError


class BoxPlace(NamedTuple):
    """What a training row shows of an image.

    Attributes:
      flip: mirrored first, left for right.
      shape: height and width of the whole image after resizing.
      offset: row and column of the resized image at which the row begins.
      antialias: whether it is resized with antialiasing.
    """

    flip: bool
    shape: Size
    offset: tuple[int, int]
    antialias: bool


@dataclass(frozen=True)
class TrainBoxes:
    """Writes an image, mirrored half the time and resized at random, with its objects.

    - `image` uint8 (H, W, C). The image lies at the top left; beside it is the mean colour.
    - `size` int32 (2,): height and width of what is not beside it.
    - `boxes` float32 (M, 4), in pixels of the row; 0 where a place is empty.
    - `classes` int32 (M,); -1 where a place is empty. Crowds get no place.
    - `instances` uint8 (M, S, S), if `mask_side` is not 0: see `boxes.bitmap_in`.

    Resizing is torchvision's for detection: bilinear without antialiasing, and the pixels are rounded to bytes, where
    torchvision keeps fractions. With `jitter` it is that of its references (`ScaleJitter`, `FixedSizeCrop`), which is
    antialiased. An image that is larger than the row is cropped at random. Boxes are cut off at the border of the crop,
    and those of which nothing is left are dropped, as there.

    Attributes:
      preset_mean: of each channel, in [0, 1].
      channels: 1 or 3.
      exif: turn photographs upright. Boxes are taken as they are, so they must be those of the upright image.
      classes: how many there are, the background among them.
      canvas: height and width of the row (H, W).
      min_size: one of these is drawn for the shorter side.
      max_size: pixels of the longer side at most. Where both cannot be, this one holds.
      jitter: the image is resized so that it fits the row, times a factor from here, instead of by `min_size`; empty =
        it is not.
      flip: whether half of the images are mirrored.
      max_boxes: places for objects (M).
      mask_side: pixels of a side of a bitmap (S); 0 = no masks.
      canvases: more than 1 = the images of a batch lie on one of so many canvases, which hold them whole, instead of
        on `canvas`.
    """

    preset_mean: tuple[float, ...]
    channels: int
    exif: bool
    classes: int
    canvas: Size
    min_size: tuple[int, ...]
    max_size: int
    jitter: tuple[float, ...]
    flip: bool
    max_boxes: int
    mask_side: int = 0
    canvases: int = 1

    @property
    def needs(self) -> tuple[str, ...]:
        return ("image", "boxes", "classes", *(["instances"] if self.mask_side else []))

    @property
    def leaves(self) -> Leaves:
        places, side = self.max_boxes, self.mask_side
        masks: Leaves = {"instances": ((places, side, side), np.uint8)} if side else {}
        return {
            "image": ((*self.canvas, self.channels), np.uint8),
            "size": ((2,), np.int32),
            "boxes": ((places, 4), np.float32),
            "classes": ((places,), np.int32),
            **masks,
        }

    def __call__(self, example: Mapping[str, Any], draws: Draws, row: Row) -> None:
        name = example["name"]
        image = decode(example["image"], self.channels, name=name, exif=self.exif)
        objects = checked_objects(example, image.shape, self.classes, masks=bool(self.mask_side))
        objects = objects.taken(~objects.crowd)
        check_count(len(objects.boxes), self.max_boxes, name)
        place = self.draw(draws.stream(CROP), image.shape)
        (top, left), height, width = place.offset, *self.canvas
        window = top, left, min(place.shape[0] - top, height), min(place.shape[1] - left, width)
        seen = np.ascontiguousarray(image[:, ::-1]) if place.flip else image
        row["image"][...] = colour_beside(self.preset_mean)
        row["image"][: window[2], : window[3]] = resize_window(
            seen, place.shape, "bilinear", window, antialias=place.antialias
        )
        row["size"][...] = window[2:]
        self._write(objects, image.shape[:2], place, window[2:], row)

    def canvases_of(self, source: Source) -> list[Canvas]:
        """The canvases that hold all images of a split at the largest of their sizes; empty = one for all."""
        if self.canvases == 1:
            return []
        sizes = Canvases(source, base=max(self.min_size), longest=self.max_size, exif=self.exif, forgive=True)
        return sizes.groups(self.canvases)

    def on(self, size: Size) -> "TrainBoxes":
        """The same fill, for a canvas of this size."""
        return replace(self, canvas=size, canvases=1)

    def draw(self, rng: np.random.Generator, shape: Sequence[int]) -> BoxPlace:
        """Draws what the row shows of an image of this shape."""
        flip = bool(rng.random() < 0.5) and self.flip
        if self.jitter:
            low, high = self.jitter
            factor = rng.uniform(low, high) * min(self.canvas[0] / shape[0], self.canvas[1] / shape[1])
            what = f"an image of {shape[0]} x {shape[1]} pixels, resized by a factor of {factor:g}"
            size = checked_shape((int(shape[0] * factor), int(shape[1] * factor)), what)
        else:
            size = detection_shape(shape, self.min_size[rng.integers(len(self.min_size))], self.max_size)
        room = (max(side - here, 0) for side, here in zip(size, self.canvas, strict=True))
        top, left = (int(rng.integers(0, most, endpoint=True)) for most in room)
        return BoxPlace(flip, size, (top, left), bool(self.jitter))

    def _write(
        self, objects: Objects, original: tuple[int, ...], place: BoxPlace, size: Sequence[int], row: Row
    ) -> None:
        moved = moved_boxes(objects.boxes, original, place, size)
        kept = (moved[:, 0] < moved[:, 2]) & (moved[:, 1] < moved[:, 3])
        moved, count = moved[kept], int(kept.sum())
        for leaf, empty, values in (("boxes", 0, moved), ("classes", EMPTY, objects.classes[kept])):
            row[leaf][...] = empty
            row[leaf][:count] = values
        if not self.mask_side:
            return
        row["instances"][count:] = 0
        where: Any = {"original": original, "shape": place.shape, "flip": place.flip, "offset": place.offset}
        for number, bitmap in enumerate(objects.taken(kept).bitmaps):
            row["instances"][number] = bitmap_in(bitmap, row["boxes"][number], self.mask_side, **where)


def moved_boxes(
    boxes: Float[np.ndarray, "n 4"], original: Sequence[int], place: BoxPlace, size: Sequence[int]
) -> Float[np.ndarray, "n 4"]:
    """Where the boxes of an image are in a row: cut off at the border of what the row shows, and in float32.

    Args:
      original: height and width of the image.
      size: height and width of what the row shows of it.
    """
    if place.flip:
        boxes = np.stack([original[1] - boxes[:, 2], boxes[:, 1], original[1] - boxes[:, 0], boxes[:, 3]], axis=1)
    scale = np.array([place.shape[1] / original[1], place.shape[0] / original[0]] * 2)
    moved = boxes * scale - np.array(place.offset[::-1] * 2)
    return np.clip(moved, 0, np.array([size[1], size[0]] * 2)).astype(np.float32)


def check_count(count: int, places: int, name: str) -> None:
    """Raises an ImageError where an image has more objects than there are places."""
    if count > places:
        raise ImageError(
            f"{name} has {count} objects, and task.max_boxes = {places} is how many a row of a batch can hold; set "
            f"task.max_boxes to at least {count}"
        )


@dataclass(frozen=True)
class EvalBoxes:
    """Writes an image on a canvas, and what says where its detections are in the image as it was.

    - `image` uint8 (H, W, C), `size` int32 (2,): as `TrainBoxes`, resized without randomness.
    - `original` int32 (2,): height and width of the image before it was resized.
    - `index` int32: the place of the example in its split.

    Attributes:
      canvas: height and width of the row (H, W).
      min_size: pixels of the shorter side.
      max_size: pixels of the longer side at most. Where both cannot be, this one holds.
      indices: the place in the split of each example that this fill writes; empty = their own order.
    """

    preset_mean: tuple[float, ...]
    channels: int
    exif: bool
    canvas: Size
    min_size: int
    max_size: int
    indices: tuple[int, ...] = ()
    needs = ("image",)

    @property
    def leaves(self) -> Leaves:
        return {
            "image": ((*self.canvas, self.channels), np.uint8),
            "size": ((2,), np.int32),
            "original": ((2,), np.int32),
            "index": ((), np.int32),
        }

    def __call__(self, example: Mapping[str, Any], draws: Draws, row: Row) -> None:
        image = decode(example["image"], self.channels, name=example["name"], exif=self.exif)
        check_annotated(example, image.shape)
        height, width = detection_shape(image.shape, self.min_size, self.max_size)
        if height > self.canvas[0] or width > self.canvas[1]:
            raise ImageError(
                f"{example['name']} has {height} x {width} pixels here, more than its canvas of {self.canvas[0]} x "
                f"{self.canvas[1]}; a canvas must hold the images that it was chosen for. Choose the canvases anew"
            )
        row["image"][...] = colour_beside(self.preset_mean)
        row["image"][:height, :width] = resize_window(
            image, (height, width), "bilinear", (0, 0, height, width), antialias=False
        )
        row["size"][...], row["original"][...] = (height, width), image.shape[:2]
        row["index"][...] = self.indices[draws.position] if self.indices else draws.position
