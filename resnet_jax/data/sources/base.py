"""The interface of a source, and checks that all sources use.

A source is anything with `class_names`, `splits`, a length, `labels()` and `source[index] -> {"image", "label"}`. A
source whose examples have other leaves names them in `leaves`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NotRequired, Protocol, TypedDict

import numpy as np
from jaxtyping import Bool, Float, Int, Real, UInt8

from resnet_jax.data.boxes import Bitmap, Objects, objects_of
from resnet_jax.data.transforms import decode
from resnet_jax.data.video.base import Video
from resnet_jax.errors import DataError


class Example(TypedDict):
    """The leaves of an example. Most sources have an image and the index of its class."""

    image: NotRequired[bytes | UInt8[np.ndarray, "H W C"]]
    """The bytes of an image file, which are decoded only as far as needed, or pixels."""
    label: NotRequired[int]
    name: NotRequired[str]
    """The name of the image in an error."""
    video: NotRequired[Video]
    mask: NotRequired[UInt8[np.ndarray, "H W"]]
    """The class of each pixel."""
    boxes: NotRequired[Real[np.ndarray, "M 4"]]
    """x1, y1, x2, y2 in pixels, half-open; -1 where a place is empty."""
    classes: NotRequired[Int[np.ndarray, " M"]]
    """The class of each box, from 1; -1 where a place is empty."""
    instances: NotRequired[UInt8[np.ndarray, "M S S"] | Sequence[Bitmap]]
    """1 where the object of a box is visible; in an array the first pixel is the box's top left corner."""
    crowd: NotRequired[Bool[np.ndarray, " M"]]
    """Boxes on which nothing is trained or judged. This leaf and the next ones hold no empty places."""
    area: NotRequired[Float[np.ndarray, " M"]]
    """As the file says it, in pixels."""
    ids: NotRequired[Sequence[str]]
    """What to call each object in an error."""
    shape: NotRequired[tuple[int, int]]
    """Height and width of the image that the boxes are of, as the file says it."""
    same: NotRequired[bool]
    """Whether this image and the other one of its pair show one identity, see `compared.py`."""


class Source(Protocol):
    """A split of a finite data set. Several threads read its examples at once, by index."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the labels."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of the data set. This source is one of them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def labels(self) -> Int[np.ndarray, " N"]:
        """All labels in order, without decoding images."""


def leaves_of(source: Source) -> tuple[str, ...]:
    """The names of the leaves of a source's examples: its `leaves`, or if it has none, image and label."""
    return tuple(getattr(source, "leaves", ("image", "label")))


def read_size(source: Source, index: int, *, exif: bool = False) -> tuple[int, int]:
    """Height and width of an image: read from the header of its file where the source has `image_size`; otherwise the
    image is decoded.

    Args:
      exif: of a photograph turned upright.
    Raises:
      ImageError: an image that cannot be read.
    """
    read = getattr(source, "image_size", None)
    if read is not None:
        size: tuple[int, int] = read(index, exif=exif)
        return size
    example = source[index]
    height, width, _ = decode(example["image"], 3, name=example.get("name", f"image {index}"), exif=exif).shape
    return height, width


def read_objects(source: Source, index: int) -> Objects:
    """The objects of an image, without decoding it where the source has `objects`. Raises `ImageError`."""
    read = getattr(source, "objects", None)
    found: Objects = objects_of(source[index]) if read is None else read(index)
    return found


def missing_leaves(source: Source, needs: Sequence[str], what: str, where: str) -> str:
    """The text of an error if examples lack a leaf that is needed. Empty if they have all.

    Args:
      needs: the names of the leaves.
      what: who needs them, such as "classification".
      where: the name of the data set.
    """
    has = leaves_of(source)
    missing = [name for name in needs if name not in has]
    if not missing:
        return ""
    examples = (
        "digit_scenes or coco:PATH"
        if "boxes" in needs
        else "digit_scenes or pairs:PATH"
        if "mask" in needs
        else "moving_digits or videos:PATH"
        if "video" in needs
        else "digits or digit_numbers"
    )
    return (
        f"{where} gives no {' and no '.join(missing)}: its examples have {', '.join(has)}, and {what} needs "
        f"{' and '.join(needs)}. Choose a data set that has them, such as {examples}"
    )


def check_labels(labels: Int[np.ndarray, " N"], class_names: Sequence[str], where: str) -> None:
    """Raises a DataError for labels that have no class."""
    wrong = np.flatnonzero((labels < 0) | (labels >= len(class_names)))
    if len(wrong):
        raise DataError(
            f"{len(wrong)} examples of {where} have labels out of range, the first is example {wrong[0]} with "
            f"{labels[wrong[0]]}; labels must be in 0..{len(class_names) - 1}, one for each class name. "
            "Correct them, leave unlabelled examples out, or complete the names"
        )


def read_names(path: Path) -> list[str]:
    """The names of the classes in a text file, one a line in the order of the labels.

    Raises:
      DataError: the file cannot be read, or is no text in UTF-8.
    """
    try:
        return path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}; it must be UTF-8, one name a line. Correct it") from error


def check_same_classes(where: str, splits: Mapping[str, Sequence[str]]) -> None:
    """Raises a DataError where splits differ in their classes, since the same label would mean two things.

    Args:
      splits: the class names of each split, in the order of its labels.
    """
    (here, names), *others = splits.items()
    for there, other in others:
        if list(names) == list(other):
            continue
        only_here, only_there = sorted(set(names) - set(other)), sorted(set(other) - set(names))
        found = (
            f"only in {here!r}: {only_here or 'none'}, only in {there!r}: {only_there or 'none'}"
            if only_here or only_there
            else f"{here!r} and {there!r} have them in different orders"
        )
        raise DataError(
            f"the classes of {where} differ: {found}; all splits must have the same classes. Rename or remove them"
        )


_SHARD = re.compile(r"-(?P<number>\d+)-of-(?P<of>\d+)\b")


def check_complete(paths: Sequence[Path], where: str) -> None:
    """Raises a DataError where the names of files, `train-00001-of-00003`, say that some are missing or too many."""
    shards = [_SHARD.search(path.name) for path in paths]
    # Files that are not numbered can only be told apart by their names.
    numbers = [match["number"] if match else path.name for match, path in zip(shards, paths, strict=True)]
    twice = {number for number in numbers if numbers.count(number) > 1}
    totals = {match["of"] if match else None for match in shards}
    if len(totals) > 1 or twice:
        first = {match and match["of"]: str(path) for match, path in zip(shards, paths, strict=True)}
        again = [str(path) for number, path in zip(numbers, paths, strict=True) if number in twice]
        raise DataError(
            f"the files of {where} are of more than one data set: {', '.join(again or first.values())}; examples would "
            "be read twice, or be mixed. Remove those of the other one"
        )
    of = int(next(iter(totals)) or 0)  # 0: the names do not say
    missing = sorted(set(range(of)) - {int(number or 0) for number in numbers}) if of else []
    if missing:
        raise DataError(
            f"{where} lacks {len(missing)} of its {of} files, the first is number {missing[0]:05} (there are "
            f"{', '.join(path.name for path in paths[:3])}{' ...' * (len(paths) > 3)}); all must be there. Fetch them"
        )
    if of and len(paths) > of:
        raise DataError(f"{where} has {len(paths)} files, and their names say {of}. Remove those that are too many")
