"""Pascal VOC's XML: a file for each image, with the boxes of its objects."""

import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from resnet_jax.data.sources.annotated import Annotated, AnnotatedImages, Annotation
from resnet_jax.data.sources.base import read_names
from resnet_jax.data.sources.voc import CLASS_NAMES, find_voc
from resnet_jax.errors import DataError, unknown_name

_LISTS = Path("ImageSets") / "Main"
_PARTS = (Path("JPEGImages"), Path("Annotations"), _LISTS)
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def voc_box_splits(root: Path) -> list[str]:
    """The lists of images that a folder holds, without VOC's of single classes such as `cat_train`."""
    names = sorted(path.stem for path in (find_voc(root, _PARTS) / _LISTS).glob("*.txt") if path.name[0] != ".")
    return [name for name in names if name.rpartition("_")[0] not in CLASS_NAMES]


def open_voc_boxes(root: Path, split: str) -> AnnotatedImages:
    """A split: the images that `ImageSets/Main/SPLIT.txt` names, from JPEGImages, and their files in Annotations.

    Corners are those of pixels, counted from 1, and the last pixel belongs to the box: so x1 = xmin - 1 and x2 = xmax.
    What VOC calls difficult is neither trained on nor judged, like a crowd. The classes are the lines of `classes.txt`
    without the background; without this file they are Pascal VOC's 20, or if other names occur, all that occur.

    Raises:
      DataError: another layout, no such split, or a file that is no XML of this kind.
    """
    folder, splits, where = find_voc(root, _PARTS), voc_box_splits(root), f"voc_boxes:{root}"
    if split not in splits:
        raise DataError(unknown_name(f"split of {where}", split, splits))
    list_of = folder / _LISTS / f"{split}.txt"
    names = [line.split()[0] for line in read_names(list_of) if line.strip()]
    if not names:
        raise DataError(f"{list_of} names no image; it must hold one name a line. Copy it again")
    with ThreadPoolExecutor(8) as pool:
        trees = list(pool.map(lambda name: _tree(folder / "Annotations" / f"{name}.xml"), names))
    classes = _class_names(root, folder, trees)
    label_of = {name: label for label, name in enumerate(classes)}
    images = [_annotated(folder, name, tree, label_of) for name, tree in zip(names, trees, strict=True)]
    return AnnotatedImages(images, classes, splits, f"{where}, split {split!r}")


def _tree(path: Path) -> ElementTree.Element | str:
    """The root of a file, or what is wrong with it."""
    try:
        return ElementTree.fromstring(path.read_bytes())
    except OSError as error:
        return f"{path} cannot be read ({error.strerror}), and says what the image shows"
    except ElementTree.ParseError as error:
        return f"{path} is no XML ({error})"


def _class_names(root: Path, folder: Path, trees: list[ElementTree.Element | str]) -> list[str]:
    path = next((place / "classes.txt" for place in (root, folder) if (place / "classes.txt").is_file()), None)
    if path is not None:
        return ["background", *(line.strip() for line in read_names(path) if line.strip())]
    if {name for tree in trees for name in _names_in(tree)} <= set(CLASS_NAMES):
        return list(CLASS_NAMES)
    with ThreadPoolExecutor(8) as pool:  # all splits must have the same classes
        every = pool.map(_tree, sorted((folder / "Annotations").glob("*.xml")))
        return ["background", *sorted({name for tree in every for name in _names_in(tree)})]


def _names_in(tree: ElementTree.Element | str) -> list[str]:
    return [] if isinstance(tree, str) else [one.findtext("name", "").strip() for one in tree.iter("object")]


def _annotated(folder: Path, name: str, tree: ElementTree.Element | str, label_of: dict[str, int]) -> Annotated:
    path = str(folder / "JPEGImages" / f"{name}.jpg")
    if isinstance(tree, str):
        return Annotated(path, None, (), (tree,))
    objects, problems = [], []
    for number, one in enumerate(tree.iter("object"), 1):
        try:
            objects.append(_object(f"object {number} of {name}.xml", one, label_of))
        except ValueError as error:
            problems.append(f"object {number} of {name}.xml {error}")
    sides = [tree.findtext(f"size/{side}", "") for side in ("height", "width")]
    known = all(side.strip().isdecimal() and int(side) for side in sides)  # some tools write 0
    return Annotated(path, (int(sides[0]), int(sides[1])) if known else None, tuple(objects), tuple(problems))


def _object(name: str, one: ElementTree.Element, label_of: dict[str, int]) -> Annotation:
    label = label_of.get(one.findtext("name", "").strip(), 0)
    if not label:
        raise ValueError(f"is of the class {one.findtext('name')!r}, which is none of the {len(label_of) - 1} classes")
    corners = [one.findtext(f"bndbox/{corner}") for corner in _CORNERS]
    try:
        left, top, right, bottom = (float(corner or "") for corner in corners)
    except ValueError:
        raise ValueError(f"has the box {corners}; bndbox must hold {', '.join(_CORNERS)}") from None
    difficult = one.findtext("difficult", "0").strip() == "1"
    return Annotation(name, (left - 1, top - 1, right, bottom), label, difficult)
