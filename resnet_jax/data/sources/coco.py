"""COCO's JSON: images, and annotations of their objects."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.data.sources.annotated import Annotated, AnnotatedImages, Annotation, Remark, listed, swapped
from resnet_jax.data.sources.codes import Code, read_code
from resnet_jax.errors import DataError, unknown_name

LAYOUTS = "annotations/instances_SPLIT.json and images in SPLIT, or SPLIT/_annotations.coco.json beside its images"
_BEGIN, _END = "instances_", ".json"
_BESIDE = "_annotations.coco.json"
_NEEDED = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("image_id", "category_id"),
    "categories": ("id", "name"),
}
_MISSING = "N/A"
"""The name of a number between those of the categories that no category has, as torchvision calls it."""


def coco_splits(root: Path) -> list[str]:
    """The splits of a folder in one of `LAYOUTS`."""
    return list(_files(root))


def open_coco(root: Path, split: str) -> AnnotatedImages:
    """A split of a folder in one of `LAYOUTS`.

    The class of an object is the id of its category, as in torchvision's networks: 91 classes for COCO, some of which
    are called N/A, as no category has their number. Where the ids begin at 0 or have large gaps, the categories are
    numbered from 1 instead, in the order of their ids.

    Raises:
      DataError: another layout, no such split, a file that is no JSON of this kind, ids that are there twice, or boxes
        that look like x1, y1, x2, y2.
    """
    files, where = _files(root), f"coco:{root}, split {split!r}"
    if split not in files:
        raise DataError(unknown_name(f"split of coco:{root}", split, files))
    path, folder = files[split]
    data = _read(path)
    label_of, class_names, renumbered = _classes(data["categories"], path)
    images = {image["id"]: image for image in data["images"]}
    by_image: dict[Any, list[Mapping[str, Any]]] = {key: [] for key in images}
    unplaced = []
    for annotation in data["annotations"]:
        if annotation["image_id"] in by_image:
            by_image[annotation["image_id"]].append(annotation)
        else:
            unplaced.append(f"{_name(annotation)} of image {annotation['image_id']}")
    _refuse_corners(data["annotations"], images, path)
    remarks = []
    if unplaced:
        text = f"{len(unplaced)} annotations of images that {path.name} does not list are not used. Complete its images"
        remarks.append(Remark(text, tuple(unplaced), wrong=True))
    if renumbered or _MISSING in class_names:
        gaps = [str(number) for number, name in enumerate(class_names) if name == _MISSING]
        how = "the classes are numbered from 1 in the order of the ids" if renumbered else "these are called N/A"
        text = f"the ids of the {len(label_of)} categories skip numbers; {how}"
        remarks.append(Remark(text, tuple(gaps), quiet=not renumbered))
    found = [_annotated(folder, images[key], by_image[key], label_of) for key in images]
    return AnnotatedImages(found, class_names, list(files), where, remarks)


def _files(root: Path) -> dict[str, tuple[Path, Path]]:
    """For each split its JSON and the folder of its images."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; it must hold {LAYOUTS}. Correct `coco:PATH`")
    found = {}
    for path in sorted((root / "annotations").glob(f"{_BEGIN}*{_END}")):
        split = path.name[len(_BEGIN) : -len(_END)]
        folders = (root / split, root / "images" / split, root / "images", root)
        found[split] = (path, next(folder for folder in folders if folder.is_dir()))
    for path in sorted(root.glob(f"*/{_BESIDE}")):
        found[path.parent.name] = (path, path.parent)
    if not found:
        there = ", ".join(sorted(os.listdir(root))[:5]) or "nothing"
        raise DataError(f"{root} holds {there}, and no annotations; it must hold {LAYOUTS}. Correct `coco:PATH`")
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read {path}: {error}; it must be a JSON as COCO has it. Fetch it again") from error
    for part, fields in _NEEDED.items():
        rows = data.get(part) if isinstance(data, dict) else None
        if not isinstance(rows, list):
            raise DataError(
                f"{path} has no list {part!r}; COCO's annotations of objects have images, annotations and categories. "
                "Choose the file of instances, or correct it"
            )
        for number, row in enumerate(rows):
            if not isinstance(row, dict) or (lacking := [field for field in fields if field not in row]):
                lacks = ", ".join(lacking) if isinstance(row, dict) else "everything"
                raise DataError(f"{path}: number {number} of {part} lacks {lacks}. Correct it")
    for part in ("images", "categories"):
        counts = Counter(row["id"] for row in data[part])
        if twice := [str(key) for key, count in counts.items() if count > 1]:
            text = f"{path}: {len(twice)} ids of {part} are there more than once, and none says which is meant"
            raise DataError(f"{listed(text, twice)}. Correct them")
    return data


def _classes(categories: Sequence[Mapping[str, Any]], path: Path) -> tuple[dict[Any, int], list[str], bool]:
    """The class of each category, the names of the classes, and whether they have other numbers than the ids."""
    if not categories:
        raise DataError(f"{path} names no category; objects need at least one. Complete it")
    ids = sorted(category["id"] for category in categories)
    kept = ids[0] >= 1 and ids[-1] <= 2 * len(ids)
    label_of = {key: key if kept else place for place, key in enumerate(ids, 1)}
    names = ["background", *[_MISSING] * max(label_of.values())]
    for category in categories:
        names[label_of[category["id"]]] = str(category["name"])
    return label_of, names, not kept and ids != list(range(1, len(ids) + 1))


def _annotated(
    folder: Path, image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], label_of: Mapping[Any, int]
) -> Annotated:
    shape = int(image["height"]), int(image["width"])
    objects, problems = [], []
    for annotation in annotations:
        try:
            objects.append(_object(annotation, shape, label_of))
        except ValueError as error:
            problems.append(f"{_name(annotation)} {error}")
    return Annotated(str(folder / image["file_name"]), shape, tuple(objects), tuple(problems))


def _object(annotation: Mapping[str, Any], shape: tuple[int, int], label_of: Mapping[Any, int]) -> Annotation:
    """Raises a ValueError that says what is wrong with an annotation."""
    label = label_of.get(annotation["category_id"])
    if label is None:
        raise ValueError(f"is of the category {annotation['category_id']}, which the file does not list")
    segmentation = annotation.get("segmentation")
    box = annotation.get("bbox")
    if not box:
        what = "a mask and no box" if segmentation else "no box"
        raise ValueError(f"has {what}; its bbox must be x, y, width and height")
    if len(box) != 4:
        raise ValueError(f"has a bbox of {len(box)} numbers; it must be x, y, width and height")
    code: Code | None = read_code(segmentation, shape) if segmentation else None
    x, y, width, height = map(float, box)
    area = annotation.get("area")
    return Annotation(
        _name(annotation),
        (x, y, x + width, y + height),
        label,
        bool(annotation.get("iscrowd", 0)),
        code,
        None if area is None else float(area),
    )


def _refuse_corners(annotations: Sequence[Mapping[str, Any]], images: Mapping[Any, Any], path: Path) -> None:
    """Raises a DataError where the boxes of a file look like x1, y1, x2, y2."""
    known = [one for one in annotations if one["image_id"] in images and len(one.get("bbox") or ()) == 4]
    boxes = np.array([one["bbox"] for one in known], np.float64).reshape(-1, 4)
    sides = [(images[one["image_id"]]["width"], images[one["image_id"]]["height"]) for one in known]
    limits = np.tile(np.array(sides, np.float64).reshape(-1, 2), 2)
    wrong = swapped(boxes, limits, has_sides=True)
    if len(wrong):
        text = (
            f"the boxes of {path} look like x1, y1, x2, y2: taken for x, y, width, height as COCO has them, "
            f"{len(wrong)} of {len(boxes)} reach out of their images, and as corners all lie within"
        )
        raise DataError(f"{listed(text, [_name(known[place]) for place in wrong])}. Write x, y, width, height")


def _name(annotation: Mapping[str, Any]) -> str:
    return f"annotation {annotation.get('id', 'without an id')}"
