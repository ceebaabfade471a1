"""Objects, anchors and outputs for the tests of the losses."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import torch

from resnet_jax.tasks.detect.losses import Objects

CLASSES, PLACES = 6, 5
MAPS = ((8, 8), (4, 4), (2, 2))
STRIDES = (8, 16, 32)
TWO_STAGE = SimpleNamespace(
    rpn_bg_iou_thresh=0.3,
    rpn_fg_iou_thresh=0.7,
    rpn_batch_size_per_image=24,
    rpn_positive_fraction=0.5,
    box_bg_iou_thresh=0.5,
    box_fg_iou_thresh=0.5,
    box_batch_size_per_image=16,
    box_positive_fraction=0.25,
    bbox_reg_weights=(10.0, 10.0, 5.0, 5.0),
)


def objects_of(rng, numbers=(3, 5, 0)):
    """Boxes of three images, the last without any. What the empty places hold is nonsense."""
    boxes = rng.uniform(-9, 99, (len(numbers), PLACES, 4))
    classes = np.full((len(numbers), PLACES), -1)
    for image, number in enumerate(numbers):
        corner = rng.uniform(0, 40, (number, 2))
        boxes[image, :number] = np.concatenate([corner, corner + rng.uniform(4, 24, (number, 2))], 1)
        classes[image, :number] = rng.integers(1, CLASSES, number)
    return Objects(jnp.asarray(boxes), jnp.asarray(classes))


def targets_of(objects):
    real = np.asarray(objects.real)
    return [
        {"boxes": torch.tensor(np.asarray(boxes)[own]), "labels": torch.tensor(np.asarray(classes)[own])}
        for boxes, classes, own in zip(*objects, real, strict=True)
    ]


def anchors_of(per_place, size=1.5):
    """Squares and oblongs at each place, larger with the stride."""
    every = []
    for (height, width), stride in zip(MAPS, STRIDES, strict=True):
        y, x = np.meshgrid(np.arange(height) * stride, np.arange(width) * stride, indexing="ij")
        for place in np.stack([x, y], -1).reshape(-1, 2):
            for number in range(per_place):
                half = stride * size / 2 * np.array([1 + 0.3 * number, 1.0])
                every.append(np.concatenate([place - half, place + half]))
    return np.array(every)


def levels_of(rng, size, scale=1.0):
    return tuple(jnp.asarray(rng.normal(size=(3, *one, size)) * scale) for one in MAPS)


def flat_torch(levels, size):
    flat = np.concatenate([np.asarray(one).reshape(3, -1, size) for one in levels], axis=1)
    return torch.tensor(flat, requires_grad=True)


def total(losses):
    """Of the whole batch, as the step divides."""
    return {name: jnp.sum(loss) / jnp.maximum(jnp.sum(count), 1) for name, (loss, count) in losses.items()}


def windows_of(masks, boxes, side):
    """The bitmap of the window of each object, as a row of a batch has it."""
    bitmaps = np.zeros((len(masks), side, side), np.uint8)
    for bitmap, mask, (left, top, right, bottom) in zip(bitmaps, masks, boxes, strict=True):
        window = mask[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))]
        bitmap[: window.shape[0], : window.shape[1]] = window
    return bitmaps
