"""YOLOF's matching and losses against a plain reference: torchvision has no YOLOF."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.tasks.detect.one_stage import yolof_losses

from .loss_cases import CLASSES, anchors_of, levels_of, objects_of


@pytest.fixture(autouse=True)
def _float64(compile_quickly):
    with jax.enable_x64(True):
        yield


def uniform_reference(said, anchors, boxes, classes, scores, options):
    """YOLOF's loss of one image, written from the paper and the authors' code: sums, and the number of anchors."""
    area = lambda box: (box[2] - box[0]) * (box[3] - box[1])

    def iou(a, b):
        shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
        return shared / (area(a) + area(b) - shared)

    def giou(a, b):
        shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
        union = area(a) + area(b) - shared
        hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
        return 1 - shared / (union + 1e-7) + (hull - union) / (hull + 1e-7)

    def nearest(candidates, box):
        middle = lambda b: np.array([(b[0] + b[2]) / 2, (b[1] + b[3]) / 2, b[2] - b[0], b[3] - b[1]])
        return np.argsort([np.abs(middle(one) - middle(box)).sum() for one in candidates])[: options.match_times]

    wanted, boxes_loss = np.zeros(len(anchors), int), 0.0
    for place, one in enumerate(said):
        if any(iou(one, box) > options.neg_ignore_thresh for box in boxes):
            wanted[place] = -1
    near = [[nearest(candidates, box) for box in boxes] for candidates in (said, anchors)]
    for time in range(options.match_times):
        for of in near:
            for number, box in enumerate(boxes):
                place = of[number][time]
                if iou(anchors[place], box) < options.pos_ignore_thresh:
                    wanted[place] = -1
                else:
                    wanted[place] = classes[number]
                    boxes_loss += giou(said[place], box)
    hits = 0.0
    for place, label in enumerate(wanted):
        for k in range(CLASSES) if label >= 0 else ():
            p = 1 / (1 + np.exp(-scores[place, k]))
            hits += -0.25 * (1 - p) ** 2 * np.log(p) if k == label > 0 else -0.75 * p**2 * np.log(1 - p)
    return hits, boxes_loss, np.sum(wanted > 0), wanted


def test_uniform_matching():
    rng = np.random.default_rng(6)
    objects, anchors = objects_of(rng), anchors_of(3)
    model = SimpleNamespace(
        num_classes=CLASSES, center_clamp=32.0, match_times=4, neg_ignore_thresh=0.5, pos_ignore_thresh=0.15
    )
    out = {"scores": levels_of(rng, 3 * CLASSES), "deltas": levels_of(rng, 12, 0.3)}
    ours = jax.jit(lambda out: yolof_losses(model, out, jnp.asarray(anchors), objects))(out)
    flat = lambda name, size: np.concatenate([np.asarray(x).reshape(3, -1, size) for x in out[name]], axis=1)
    scores, deltas = flat("scores", CLASSES), flat("deltas", 4)
    side = anchors[:, 2:] - anchors[:, :2]
    seen = set()
    for image in range(3):
        middle = (anchors[:, :2] + anchors[:, 2:]) / 2 + np.clip(deltas[image, :, :2] * side, -32, 32)
        half = np.exp(np.minimum(deltas[image, :, 2:], np.log(1000 / 16))) * side / 2
        real = np.asarray(objects.real[image])
        boxes, classes = np.asarray(objects.boxes[image])[real], np.asarray(objects.classes[image])[real]
        *expected, wanted = uniform_reference(
            np.concatenate([middle - half, middle + half], 1), anchors, boxes, classes, scores[image], model
        )
        hits, apart = ours["classification"], ours["bbox_regression"]
        np.testing.assert_allclose([hits[0][image], apart[0][image], hits[1][image]], expected, rtol=1e-10)
        seen |= set(wanted.tolist())
    assert {-1, 0} < seen, "some are left out, some are background, some find an object"
