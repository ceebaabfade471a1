"""COCO's average precision of a split, by the library hotcoco (numbers equal to pycocotools', tested).

The library gets what COCO's own files hold: annotations with areas and crowds, and detections in the pixels of each
image as it was.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from resnet_jax.data import Source, read_size
from resnet_jax.data.boxes import Bitmap, Objects, Size
from resnet_jax.data.sources import read_objects
from resnet_jax.display import distinct
from resnet_jax.errors import DataError
from resnet_jax.tasks.detect.measure import BOX, MASK, best_of
from resnet_jax.tasks.detect.paste import paste
from resnet_jax.training.evaluate import Report, Rows, Sums

RECALLS = np.linspace(0, 1, 101)
"""Where precision is looked at (pycocotools' `recThrs`)."""
_KINDS = {BOX: "bbox", MASK: "segm"}
_ALL, _SMALL, _MEDIUM, _LARGE = range(4)  # areas: all, below 32 x 32, below 96 x 96, and above
_ONE, _TEN, _HUNDRED = range(3)  # detections of an image that count
_HALF, _THREE_QUARTERS = 0, 5  # of the overlaps .5, .55, ... .95


class Truth(NamedTuple):
    """What the annotations of a split say.

    Attributes:
      data: as COCO's JSON.
      class_names: the background first.
      objects: of each class that has any, how many are judged.
    """

    data: dict[str, Any]
    class_names: tuple[str, ...]
    objects: dict[int, int]


class Precision(NamedTuple):
    """What was found of one kind, boxes or masks.

    Attributes:
      numbers: `box_ap` and so on, and `box_ap/CLASS` for each class that occurs.
      half: of each class that occurs, the average precision at an overlap of one half.
      curves: by name of the overlap, the mean over the classes of the precision at each of `RECALLS`.
    """

    numbers: dict[str, float]
    half: dict[int, float]
    curves: dict[str, Float[np.ndarray, " 101"]]


class Judged(NamedTuple):
    """The detections of a split, judged by its annotations.

    Attributes:
      numbers: all of `Precision.numbers`, and `loss`, which is 1 - the number by which checkpoints are compared.
      kinds: `box`, and `mask` if there are masks.
    """

    numbers: dict[str, float]
    kinds: dict[str, Precision]
    truth: Truth


def make_report_of(*, masks: bool, exif: bool) -> Callable[[Source], Report]:
    """Returns the function that gives the report of a split.

    Args:
      masks: whether the network gives masks.
      exif: photographs are turned upright.
    """

    def report_of(source: Source) -> Report:
        truth = cache(lambda: truth_of(source, masks=masks, exif=exif))  # read once, when there is something to judge

        def report(sums: Sums, rows: Rows) -> dict[str, float]:
            padding = 1 - float(sums["pixels"]) / float(sums["canvas"])
            return {**judge(truth(), rows).numbers, "padding": padding}

        return report

    return report_of


def truth_of(source: Source, *, masks: bool, exif: bool, threads: int = 8) -> Truth:
    """The annotations of a split.

    Args:
      masks: whether masks are judged too.
      exif: of photographs turned upright.

    Raises:
      DataError: the split holds no object that could be found.
    """

    def read(index: int) -> tuple[Size, Objects]:
        return read_size(source, index, exif=exif) if masks else (1, 1), read_objects(source, index)

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(read, range(len(source))))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, ((height, width), objects) in enumerate(found):
        images.append({"id": index, "height": height, "width": width})
        for place, (box, label) in enumerate(zip(_sides(objects.boxes), objects.classes.tolist(), strict=True)):
            mask = {"segmentation": encode(objects.bitmaps[place], (height, width))} if masks else {}
            annotations.append(
                {
                    "id": len(annotations) + 1,  # a detection that is matched with 0 counts as unmatched
                    "image_id": index,
                    "category_id": label,
                    "bbox": box.tolist(),
                    "area": float(objects.area[place]),
                    "iscrowd": int(objects.crowd[place]),
                    **mask,
                }
            )
    judged = [one["category_id"] for one in annotations if not one["iscrowd"]]
    if not judged:
        raise DataError(
            f"none of the {len(found)} images has an object that could be found; average precision needs at least one. "
            "Choose another split, or complete its annotations"
        )
    categories = [{"id": label, "name": name} for label, name in enumerate(source.class_names) if label]
    data = {"images": images, "annotations": annotations, "categories": categories}
    return Truth(data, tuple(source.class_names), {label: judged.count(label) for label in sorted(set(judged))})


def judge(truth: Truth, rows: Rows) -> Judged:
    """Judges the detections of a whole split.

    Args:
      rows: what `measure.make_measure` keeps: one row for each image, in any order.

    Raises:
      DataError: scores or boxes that are not finite.
    """
    detections = list(detections_of(rows, truth))
    kinds = [BOX, MASK] if "masks" in rows else [BOX]
    found = {kind: _precision(truth, detections, kind) for kind in kinds}
    numbers = {name: value for one in found.values() for name, value in one.numbers.items()}
    return Judged({"loss": 1 - numbers[best_of("masks" in rows)], **numbers}, found, truth)


def detections_of(rows: Rows, truth: Truth) -> Iterator[dict[str, Any]]:
    """The detections in COCO's form, in the pixels of the images as they were.

    Raises:
      DataError: scores or boxes that are not finite.
    """
    for row, image in enumerate(rows["index"].tolist()):
        here = rows["labels"][row] >= 0
        original, size = rows["original"][row], rows["size"][row]
        scale = np.array([original[1] / size[1], original[0] / size[0]] * 2)
        boxes, scores = rows["boxes"][row][here] * scale, rows["scores"][row][here].astype(np.float64)
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise DataError(
                f"detections in image {image} are not finite; training may have diverged. Use an earlier checkpoint, "
                "or a smaller learning rate"
            )
        for place, (box, label) in enumerate(zip(boxes, rows["labels"][row][here].tolist(), strict=True)):
            one = {"image_id": image, "category_id": label, "score": scores[place], "bbox": _sides(box).tolist()}
            if "masks" in rows:
                shape = int(original[0]), int(original[1])
                top, left, shares = paste(
                    rows["masks"][row][here][place].astype(np.float32), box.astype(np.float32), shape
                )
                one["segmentation"] = encode(Bitmap(top, left, (shares > 0.5).astype(np.uint8)), shape)
            yield one


def _precision(truth: Truth, detections: Sequence[dict[str, Any]], kind: str) -> Precision:
    precision, recall = _looked_up(truth, detections, _KINDS[kind])
    numbers = {
        f"{kind}_ap": _mean(precision[..., _ALL, _HUNDRED]),
        f"{kind}_ap50": _mean(precision[_HALF, ..., _ALL, _HUNDRED]),
        f"{kind}_ap75": _mean(precision[_THREE_QUARTERS, ..., _ALL, _HUNDRED]),
        **{f"{kind}_ap_{name}": _mean(precision[..., place, _HUNDRED]) for name, place in _AREAS.items()},
        **{f"{kind}_ar{most}": _mean(recall[..., _ALL, place]) for most, place in _MOST.items()},
    }
    names, half = distinct(truth.class_names), {}
    for label in truth.objects:
        of_class = precision[:, :, label - 1, _ALL, _HUNDRED]
        numbers[f"{kind}_ap/{names[label]}"], half[label] = _mean(of_class), _mean(of_class[_HALF])
    with_objects = [label - 1 for label in truth.objects]
    curve = precision[:, :, with_objects, _ALL, _HUNDRED].mean(axis=2)
    curves = {"IoU 0.5": curve[_HALF], "IoU 0.75": curve[_THREE_QUARTERS], "IoU 0.5 to 0.95": curve.mean(axis=0)}
    return Precision({name: value for name, value in numbers.items() if value >= 0}, half, curves)


_AREAS = {"s": _SMALL, "m": _MEDIUM, "l": _LARGE}
_MOST = {1: _ONE, 10: _TEN, 100: _HUNDRED}


def _looked_up(
    truth: Truth, detections: Sequence[dict[str, Any]], kind: str
) -> tuple[Float[np.ndarray, "T R K A M"], Float[np.ndarray, "T K A M"]]:
    """Precision at each recall, and the largest recall: by overlap, class, area and number of detections."""
    from hotcoco import COCO, COCOeval

    annotations = COCO(truth.data)
    if kind == "segm":  # the library would take the area of the box
        detections = [{name: value for name, value in one.items() if name != "bbox"} for one in detections]
    found = annotations.load_res(list(detections) if detections else np.zeros((0, 7)))
    evaluated = COCOeval(annotations, found, kind)
    evaluated.evaluate()
    evaluated.accumulate()
    results = evaluated.eval
    assert results is not None
    return np.asarray(results["precision"]), np.asarray(results["recall"])


def _mean(values: np.ndarray) -> float:
    """The mean of the values that there are, as pycocotools' `_summarize`; -1 if there is none: no such object."""
    there = values[values > -1]
    return float(there.mean()) if there.size else -1.0


def _sides(boxes: Float[np.ndarray, "*n 4"]) -> Float[np.ndarray, "*n 4"]:
    """x, y, width, height."""
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def encode(bitmap: Bitmap, shape: Size) -> dict[str, Any]:
    """A bitmap as COCO's run-length code of the whole image."""
    from hotcoco import mask

    whole = np.zeros(shape, np.uint8, order="F")
    high, wide = bitmap.pixels.shape
    whole[bitmap.top : bitmap.top + high, bitmap.left : bitmap.left + wide] = bitmap.pixels
    return mask.encode(whole)
