"""The images and objects that a run trains on, for people to look at."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from resnet_jax.config import Config, Detect
from resnet_jax.data import load_source
from resnet_jax.data.boxes import Bitmap, Objects, objects_of, window_of
from resnet_jax.tasks.assemble import build_model
from resnet_jax.tasks.coloured import make_prepare
from resnet_jax.tasks.detect.task import check_source, has_masks, make_padded, train_fill
from resnet_jax.tasks.seen import seen_in_update


@dataclass(frozen=True)
class BoxedBatch:
    """A batch as the network sees it, with pixel values back in [0, 1]."""

    images: Float[np.ndarray, "N H W C"]
    objects: list[Objects]
    class_names: tuple[str, ...]


def training_batch(config: Config, step: int) -> BoxedBatch:
    """The batch of update number `step` of a run with this config. The first is 1, as in the log.

    Args:
      config: with its number of classes.

    Raises:
      DataError, ConfigError: the data set cannot be read, or is not what the config says.
    """
    options = config.task
    assert isinstance(options, Detect)
    masks = has_masks(build_model(config))
    source = load_source(config.data, config.data.train_split)
    check_source(config, source, masks=masks)
    fill, prepare = train_fill(config, options, masks=masks), make_padded(make_prepare(config))
    seen = seen_in_update(config, source, prepare, step, fill=fill)
    objects = []
    for row in range(len(seen["image"])):
        boxes, classes = seen["boxes"][row], seen["classes"][row]
        found = objects_of({"boxes": boxes, "classes": classes})
        bitmaps = bitmaps_of(boxes[: len(found.boxes)], seen["instances"][row]) if masks else []
        objects.append(found._replace(bitmaps=bitmaps))
    return BoxedBatch(seen["image"], objects, tuple(source.class_names))


def bitmaps_of(boxes: Float[np.ndarray, "n 4"], masks: UInt8[np.ndarray, "M S S"]) -> list[Bitmap]:
    """The bitmaps of the objects of a row, as large as the windows of their boxes: the inverse of `boxes.bitmap_in`."""
    found = []
    for box, mask in zip(boxes, masks, strict=False):
        top, left, bottom, right = window_of(box)
        high, wide = min(bottom - top, len(mask)), min(right - left, len(mask))
        pixels: Int[np.ndarray, "h w"] = mask[:high, :wide]
        if (high, wide) != (bottom - top, right - left):
            pixels = cv2.resize(pixels, (right - left, bottom - top), interpolation=cv2.INTER_NEAREST)
        found.append(Bitmap(top, left, pixels))
    return found
