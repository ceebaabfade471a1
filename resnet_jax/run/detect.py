"""Finds the objects in images, whatever their sizes: torchvision's whole detector, with fixed shapes inside."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree, UInt8

from resnet_jax.data.boxes import Size, detection_shape
from resnet_jax.errors import DataError, ModelError
from resnet_jax.models.detect.network import Detector
from resnet_jax.tasks.detect.find import make_find
from resnet_jax.tasks.detect.paste import paste_all

MULTIPLE = 32
"""Canvases have sides of a multiple of this, as torchvision's."""


def detect(
    model: Detector,
    variables: PyTree[Array],
    images: Sequence[UInt8[np.ndarray, "H W C"]],
    *,
    canvas: Size | None = None,
    batch_size: int | None = None,
) -> list[dict[str, np.ndarray]]:
    """The objects of each image, as torchvision's network gives them (`GeneralizedRCNN`, `RetinaNet`, `FCOS`).

    An image is normalised with `model.image_mean` and `model.image_std`, scaled as `model.min_size` and `max_size` say
    (bilinear, without antialiasing), and laid at the top left of a canvas of zeros. A program is compiled for each
    canvas and number of images. What the network sees beside an image depends on the canvas, and so its scores do a
    little: see docs/detection.md.

    Args:
      canvas: height and width, for images of which none may be larger when it is scaled; None = as large as the largest
        of them, rounded up to a multiple of 32, as in torchvision.
      batch_size: images of a batch; the last batch is filled up. None = all at once.

    Returns:
      For each image `boxes` (n, 4), x1, y1, x2, y2 in its own pixels, `labels` (n,), `scores` (n,), the surest first,
      and where the network has masks, `masks` (n, H, W), how sure each pixel is part of the object.

    Raises:
      ModelError: the network does not find objects.
      DataError: an image that is not uint8 (H, W, C), or a canvas that is too small or no multiple of 32.
    """
    if not isinstance(model, Detector):
        raise ModelError(
            f"detect is for networks that find objects, and {type(model).__name__} is none; choose one of "
            "list_models(task='detect')"
        )
    shapes = [_shape_of(place, image, model) for place, image in enumerate(images)]
    height, width = _canvas(shapes, canvas)
    rows = batch_size or len(shapes)
    dtype = np.promote_types(model.param_dtype, np.float32)
    found: list[dict[str, np.ndarray]] = []
    for start in range(0, len(shapes), max(rows, 1)):
        own, own_images = shapes[start : start + rows], images[start : start + rows]
        pixels = np.zeros((rows, height, width, len(model.image_mean)), dtype)
        for row, image, (bottom, right) in zip(pixels, own_images, own, strict=False):
            row[:bottom, :right] = scaled(normalized(image, model, dtype), (bottom, right))
        sizes = np.array([*own, *[(1, 1)] * (rows - len(own))], np.int32)
        said = jax.device_get(_program(model)(variables, pixels, sizes))
        found += [_of_image(said, row, image.shape[:2], own[row]) for row, image in enumerate(own_images)]
    return found


@cache
def _program(model: Detector) -> Any:
    """The same compiled function at each call."""
    return jax.jit(make_find(model))


def _of_image(said: Any, row: int, shape: Size, seen: Size) -> dict[str, np.ndarray]:
    """The objects of one image of the batch, in its own pixels; `said` is `Found` in arrays of NumPy."""
    there = said.labels[row] >= 0
    # torchvision has these ratios in float32.
    down, across = (np.float32(own) / np.float32(now) for own, now in zip(shape, seen, strict=True))
    boxes = said.boxes[row][there]
    boxes = boxes * np.array([across, down, across, down]).astype(boxes.dtype)
    out = {"boxes": boxes, "labels": said.labels[row][there], "scores": said.scores[row][there]}
    if said.masks is not None:
        out["masks"] = paste_all(said.masks[row][there], boxes, shape)
    return out


def _shape_of(place: int, image: Any, model: Detector) -> Size:
    """Height and width that the network sees of an image."""
    channels = len(model.image_mean)
    dtype, shape = getattr(image, "dtype", type(image).__name__), np.shape(image)
    if dtype != np.uint8 or len(shape) != 3 or shape[-1] != channels:
        raise DataError(
            f"images[{place}] is {dtype} of shape {shape}; detect takes a list of uint8 images (H, W, {channels}), "
            "each of any size: give the pixels as they were decoded, from 0 to 255"
        )
    return detection_shape(shape, model.min_size, model.max_size)


def _canvas(shapes: Sequence[Size], canvas: Size | None) -> Size:
    most = [max((shape[axis] for shape in shapes), default=1) for axis in (0, 1)]
    height, width = canvas or (-(-side // MULTIPLE) * MULTIPLE for side in most)
    if canvas and (height % MULTIPLE or width % MULTIPLE or height < most[0] or width < most[1]):
        raise DataError(
            f"canvas = {canvas} must have sides of a multiple of {MULTIPLE} that hold every image, and the largest has "
            f"{most[0]} x {most[1]} pixels when it is scaled; leave canvas out, or make it larger"
        )
    return height, width


def normalized(image: UInt8[np.ndarray, "H W C"], model: Detector, dtype: np.dtype) -> Float[np.ndarray, "H W C"]:
    mean, std = (np.asarray(numbers, dtype) for numbers in (model.image_mean, model.image_std))
    return (image.astype(dtype) / 255 - mean) / std


def scaled(image: Float[np.ndarray, "H W C"], shape: Size) -> Float[np.ndarray, "h w C"]:
    """torch's `interpolate(mode="bilinear", align_corners=False)`. It is on the host, since each image has another
    shape, and a program would be compiled for each."""
    for axis, new in enumerate(shape):
        length = image.shape[axis]
        middle = np.maximum((np.arange(new) + 0.5) * (length / new) - 0.5, 0)
        before = np.minimum(middle.astype(int), length - 1)
        share = (middle - before).astype(image.dtype).reshape(-1, *[1] * (2 - axis))
        first, second = (np.take(image, at, axis) for at in (before, np.minimum(before + 1, length - 1)))
        image = first + (second - first) * share
    return image
