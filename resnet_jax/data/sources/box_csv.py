"""Boxes in a CSV file for each split, a line for each box."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np

from resnet_jax.data.decode import image_size
from resnet_jax.data.sources.annotated import Annotated, AnnotatedImages, Annotation, Remark, listed, swapped
from resnet_jax.data.sources.base import read_names
from resnet_jax.data.sources.folder import image_files
from resnet_jax.errors import DataError, ImageError, unknown_name

COLUMNS = "image,xmin,ymin,xmax,ymax,label"
_IMAGE = ("image", "image_path", "filename")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_LABEL = ("label", "class")

Line = tuple[int, str, list[str], str]
"""The number of a line, its image, its four numbers as text, and its label."""


def box_csv_splits(root: Path) -> list[str]:
    """The CSV files of a folder."""
    if not root.is_dir():
        raise DataError(
            f"{root} is not a folder; it must hold SPLIT.csv with the columns {COLUMNS}. Correct boxes:PATH"
        )
    found = sorted(path.stem for path in root.glob("*.csv") if path.name[0] != ".")
    if not found:
        raise DataError(f"{root} holds no file SPLIT.csv; it must hold one with the columns {COLUMNS}. Add it")
    return found


def open_box_csv(root: Path, split: str) -> AnnotatedImages:
    """A split: the images that `root/SPLIT.csv` names, by paths below `root`, below `root/images` or `root/SPLIT`.

    A line has the columns of `COLUMNS`, also `image_path` or `filename` and `class`. A line with an image and four
    empty fields says that the image shows no object. The classes are the lines of `classes.txt` without the
    background; without this file they are all labels of all CSV files, sorted.

    Raises:
      DataError: no such split, other columns, or boxes that look like x, y, width, height.
    """
    splits, where = box_csv_splits(root), f"boxes:{root}"
    if split not in splits:
        raise DataError(unknown_name(f"split of {where}", split, splits))
    every = {name: _lines(root / f"{name}.csv") for name in splits}
    classes = _class_names(root, every)
    label_of = {name: label for label, name in enumerate(classes)}
    by_image: dict[str, list[Line]] = {}
    for line in every[split]:
        by_image.setdefault(line[1], []).append(line)
    paths = {name: _path(root, split, name) for name in by_image}
    images = [_annotated(paths[name], lines, f"{split}.csv", label_of) for name, lines in by_image.items()]
    _refuse_sides(images, root / f"{split}.csv")
    return AnnotatedImages(images, classes, splits, f"{where}, split {split!r}", _alone(root, every))


def _lines(path: Path) -> list[Line]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}; it must be a CSV in UTF-8. Correct it") from error
    header = [name.strip().lower() for name in rows[0]] if rows else []
    image = next((header.index(name) for name in _IMAGE if name in header), None)
    label = next((header.index(name) for name in _LABEL if name in header), None)
    if image is None or label is None or any(corner not in header for corner in _CORNERS):
        raise DataError(
            f"{path} has the columns {', '.join(header) or 'none'}; it must have {COLUMNS}, named in its first line. "
            "Add that line, or rename them"
        )
    places = [header.index(corner) for corner in _CORNERS]
    found = []
    for number, row in enumerate(rows[1:], 2):
        if not any(field.strip() for field in row):
            continue
        if len(row) != len(header):
            raise DataError(
                f"line {number} of {path} has {len(row)} fields, and the first line {len(header)}. Correct it"
            )
        found.append((number, row[image].strip(), [row[place].strip() for place in places], row[label].strip()))
    return found


def _class_names(root: Path, every: dict[str, list[Line]]) -> list[str]:
    path = root / "classes.txt"
    if path.is_file():
        return ["background", *(line.strip() for line in read_names(path) if line.strip())]
    return [
        "background",
        *sorted({label for lines in every.values() for _, _, box, label in lines if any(box) and label}),
    ]


def _path(root: Path, split: str, name: str) -> str:
    places = (root / name, root / "images" / name, root / split / name)
    return str(next((place for place in places if place.is_file()), places[0]))


def _annotated(path: str, lines: list[Line], file: str, label_of: dict[str, int]) -> Annotated:
    objects, problems = [], []
    for number, _, box, label in lines:
        name = f"line {number} of {file}"
        if not any(box):
            continue
        try:
            x1, y1, x2, y2 = map(float, box)
        except ValueError:
            problems.append(f"{name} has the box {', '.join(box)}; it must be four numbers, or four empty fields")
            continue
        if not label_of.get(label):
            problems.append(f"{name} is of the class {label!r}, which is none of the {len(label_of) - 1} classes")
            continue
        objects.append(Annotation(name, (x1, y1, x2, y2), label_of[label]))
    return Annotated(path, None, tuple(objects), tuple(problems))


def _refuse_sides(images: list[Annotated], path: Path) -> None:
    """Raises a DataError where the boxes of a file look like x, y, width, height. It reads the sizes of the images only
    where a box cannot be right."""
    every = [(one, image.path) for image in images for one in image.objects]
    boxes = np.array([one.box for one, _ in every], np.float64).reshape(-1, 4)
    if (boxes[:, 2:] > boxes[:, :2]).all():
        return
    sizes = {}
    for image in images:
        try:
            sizes[image.path] = image_size(image.path)[::-1]
        except ImageError:
            return  # told where the image is read
    wrong = swapped(boxes, np.array([sizes[name] * 2 for _, name in every], np.float64), has_sides=False)
    if len(wrong):
        text = (
            f"the boxes of {path} look like x, y, width, height: taken for corners, {len(wrong)} of {len(boxes)} have "
            "no area, and as sides all lie within their images"
        )
        raise DataError(f"{listed(text, [every[place][0].name for place in wrong])}. Write xmin, ymin, xmax, ymax")


def _alone(root: Path, every: dict[str, list[Line]]) -> list[Remark]:
    """Images of the folder that no CSV file names."""
    named = {str(Path(_path(root, split, line[1]))) for split, lines in every.items() for line in lines}
    found = [path for path in image_files(root, root.parent, Counter()) if str(Path(path)) not in named]
    text = f"{len(found)} images below {root} are named by no CSV file and are not used"
    return [Remark(f"{text}. An image without objects needs a line with four empty fields", tuple(found))] * bool(found)
