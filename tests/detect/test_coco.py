"""Average precision of splits, beside pycocotools and by hand; masks in their image, beside torchvision."""

import contextlib
import io

import cv2
import numpy as np
import pytest

from resnet_jax.config import DataConfig
from resnet_jax.data import Subset, load_source
from resnet_jax.data.boxes import objects_of
from resnet_jax.errors import DataError
from resnet_jax.tasks.detect.coco import detections_of, judge, make_report_of, truth_of
from resnet_jax.tasks.detect.paste import paste, paste_all

CLASSES = ("background", "cat", "dog", "bird")


class Made:
    """A source of given examples."""

    class_names, splits, leaves = CLASSES, ("test",), ("image", "boxes", "classes")

    def __init__(self, examples, shape=(200, 300)):
        self.examples, self.shape = examples, shape

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        return self.examples[index]

    def image_size(self, index, *, exif=False):
        return self.shape


def made(rng, count=12, shape=(200, 300), most=8):
    """Images with objects of all sizes, some of them crowds, and an image without any."""
    examples = []
    for number in range(count):
        objects = 0 if number == 3 else int(rng.integers(1, most))
        corners = rng.uniform(0, 0.7, (objects, 2)) * shape[::-1]
        sides = np.exp(rng.uniform(np.log(5), np.log(250), (objects, 2)))
        boxes = np.round(np.concatenate([corners, np.minimum(corners + sides, shape[::-1])], axis=1), 2)
        examples.append(
            {
                "boxes": boxes,
                "classes": rng.integers(1, len(CLASSES), objects),
                "crowd": rng.random(objects) < 0.15,
                "area": (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) * rng.uniform(0.4, 1, objects),
            }
        )
    return Made(examples, shape)


def rows_of(rng, source, places=20, masks=False):
    """Detections near the objects of a source, in an order of their own, on canvases twice as large."""
    count, shape = len(source), source.image_size(0)
    order = rng.permutation(count)
    rows = {
        "index": order.astype(np.int32),
        "original": np.tile(np.array(shape, np.int32), (count, 1)),
        "size": np.tile(np.array(shape, np.int32) * 2, (count, 1)),
        "boxes": rng.uniform(0, 100, (count, places, 4)).astype(np.float32),
        "scores": rng.uniform(0, 1, (count, places)).astype(np.float32).round(2),  # with ties
        "labels": np.full((count, places), -1, np.int32),
        **({"masks": rng.uniform(0, 0.6, (count, places, 28, 28)).astype(np.float16)} if masks else {}),
    }
    for row, index in enumerate(order):
        objects = objects_of(source[int(index)])
        number = 0
        for place, (box, label) in enumerate(zip(objects.boxes, objects.classes, strict=True)):
            for _ in range(rng.integers(0, 3)):
                moved = box + rng.normal(0, 0.05, 4) * np.tile(box[2:] - box[:2], 2)
                rows["boxes"][row, number] = 2 * np.concatenate([moved[:2], np.maximum(moved[2:], moved[:2] + 1)])
                rows["labels"][row, number] = label if rng.random() < 0.8 else rng.integers(1, len(CLASSES))
                if masks:
                    rows["masks"][row, number] += cv2.resize(objects.bitmaps[place].pixels / 2.5, (28, 28))
                number += 1
    return rows


def by_pycocotools(truth, detections, kind):
    """The 12 numbers, and the AP of each class."""
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        annotations = COCO()
        annotations.dataset = {"info": {}, **truth.data}
        annotations.createIndex()
        if kind == "segm":
            detections = [{name: value for name, value in one.items() if name != "bbox"} for one in detections]
        evaluated = COCOeval(annotations, annotations.loadRes(detections), kind)
        evaluated.evaluate()
        evaluated.accumulate()
        evaluated.summarize()
    precision = evaluated.eval["precision"]
    per_class = {truth.class_names[label]: precision[:, :, label - 1, 0, 2].mean() for label in truth.objects}
    return evaluated.stats, per_class, precision


NAMES = ("ap", "ap50", "ap75", "ap_s", "ap_m", "ap_l", "ar1", "ar10", "ar100")


@pytest.mark.parametrize("seed", range(3))
def test_boxes_are_judged_as_by_pycocotools(seed):
    rng = np.random.default_rng(seed)
    source = made(rng)
    truth = truth_of(source, masks=False, exif=False)
    rows = rows_of(rng, source)
    found = judge(truth, rows)
    stats, per_class, precision = by_pycocotools(truth, list(detections_of(rows, truth)), "bbox")
    assert 0.1 < found.numbers["box_ap"] < 0.9, "neither trivial"
    for place, name in enumerate(NAMES):
        assert found.numbers[f"box_{name}"] == pytest.approx(stats[place], abs=1e-12), name
    for name, value in per_class.items():
        assert found.numbers[f"box_ap/{name}"] == pytest.approx(value, abs=1e-12)
    assert found.numbers["loss"] == 1 - found.numbers["box_ap"]
    there = [label - 1 for label in truth.objects]
    np.testing.assert_allclose(found.kinds["box"].curves["IoU 0.5"], precision[0][:, there, 0, 2].mean(1), atol=1e-12)


def test_masks_are_judged_as_by_pycocotools():
    from hotcoco import mask

    rng = np.random.default_rng(0)
    scenes = load_source(DataConfig(name="digit_scenes"), "test")
    source = Subset(scenes, range(10))
    truth = truth_of(source, masks=True, exif=False)
    assert len(truth.data["annotations"]) == sum(len(objects_of(source[i]).boxes) for i in range(10))
    rows = rows_of(rng, source, masks=True)
    found = judge(truth, rows)
    detections = list(detections_of(rows, truth))
    row = int(np.flatnonzero(rows["index"] == detections[0]["image_id"])[0])
    whole = paste_all(rows["masks"][row, :1].astype(np.float32), rows["boxes"][row, :1] / 2, (96, 96))[0]
    assert np.array_equal(mask.decode(detections[0]["segmentation"]), whole > 0.5)
    assert 0.1 < found.numbers["mask_ap"] < 0.9
    for kind, theirs in (("box", "bbox"), ("mask", "segm")):
        stats, per_class, _ = by_pycocotools(truth, detections, theirs)
        for place, name in enumerate(NAMES):
            if stats[place] >= 0:
                assert found.numbers[f"{kind}_{name}"] == pytest.approx(stats[place], abs=1e-12), name
        for name, value in per_class.items():
            assert found.numbers[f"{kind}_ap/{name}"] == pytest.approx(value, abs=1e-12)
    assert "box_ap_l" not in found.numbers, "digits are never large"
    assert found.numbers["loss"] == 1 - found.numbers["mask_ap"]


def test_a_set_judged_by_hand():
    """Two cats and a dog in two images. The detections of cats, by score: right, wrong, right; so precision is 1 up to
    recall 1/2 and 2/3 behind it: (51 + 50 * 2 / 3) / 101. The dog is found with an overlap of exactly .6: right at .5,
    .55 and .6, which makes 3 / 10. Birds occur nowhere and do not count."""
    square = [0.0, 0.0, 40.0, 40.0]
    source = Made(
        [
            {"boxes": [square, [100, 100, 150, 160]], "classes": [1, 2]},
            {"boxes": [square], "classes": [1]},
        ]
    )
    rows = {
        "index": np.array([1, 0]),
        "original": np.array([[200, 300]] * 2),
        "size": np.array([[200, 300]] * 2),
        "boxes": np.array(
            [
                [square, [200, 100, 240, 140], [0, 0, 0, 0]],
                [[100, 100, 150, 136], square, [0, 0, 0, 0]],
            ],
            np.float32,
        ),
        "scores": np.array([[0.9, 0.8, 0.99], [0.5, 0.7, 0.99]]),
        "labels": np.array([[1, 1, -1], [2, 1, -1]]),
    }
    sums = {"pixels": np.float64(30), "canvas": np.float64(40)}
    numbers = make_report_of(masks=False, exif=False)(source)(sums, rows)
    assert numbers["padding"] == 0.25
    cats = (51 + 50 * 2 / 3) / 101
    assert numbers["box_ap/cat"] == pytest.approx(cats, abs=1e-12)
    half = judge(truth_of(source, masks=False, exif=False), rows).kinds["box"].half
    assert half == {1: pytest.approx(cats, abs=1e-12), 2: pytest.approx(1.0, abs=1e-12)}
    assert numbers["box_ap/dog"] == pytest.approx(0.3, abs=1e-12)
    assert numbers["box_ap"] == pytest.approx((cats + 0.3) / 2, abs=1e-12)
    assert numbers["box_ap75"] == pytest.approx(cats / 2, abs=1e-12)
    assert "box_ap/bird" not in numbers
    nothing = {**rows, "labels": np.full((2, 3), -1)}
    assert make_report_of(masks=False, exif=False)(source)(sums, nothing)["box_ap"] == 0


def test_what_cannot_be_judged():
    empty = Made(
        [{"boxes": np.zeros((0, 4)), "classes": []}, {"boxes": [[0, 0, 9, 9]], "classes": [1], "crowd": [True]}]
    )
    with pytest.raises(DataError, match="none of the 2 images has an object that could be found.*Choose another split"):
        make_report_of(masks=False, exif=False)(empty)  # before the network looks at anything
    rng = np.random.default_rng(0)
    source = made(rng)
    rows = rows_of(rng, source)
    rows["boxes"][2, 0], rows["labels"][2, 0] = np.nan, 1
    with pytest.raises(DataError, match=f"detections in image {rows['index'][2]} are not finite.*Use an earlier"):
        judge(truth_of(source, masks=False, exif=False), rows)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_masks_are_pasted_as_in_torchvision(torchvision, dtype):
    import torch
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    rng = np.random.default_rng(0)
    shape = (61, 83)
    corners = rng.uniform(-20, 80, (60, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0, 70, (60, 2))], axis=1).astype(dtype)
    boxes[0] = [10, 10, 10, 10]
    masks = rng.uniform(0, 1, (60, 28, 28)).astype(dtype)
    keep = (boxes[:, 0] < 80) & (boxes[:, 1] < 58) & (boxes[:, 2] > 3) & (boxes[:, 3] > 3)  # else torchvision fails
    boxes, masks = boxes[keep], masks[keep]
    assert len(boxes) > 30
    theirs = paste_masks_in_image(torch.from_numpy(masks)[:, None], torch.from_numpy(boxes), shape)[:, 0].numpy()
    np.testing.assert_allclose(
        paste_all(masks, boxes, shape), theirs, rtol=0, atol=3e-6 if dtype == np.float32 else 1e-12
    )
    outside = paste(masks[0], np.array([200, 200, 220, 220], dtype), shape)
    assert outside.shares.size == 0
