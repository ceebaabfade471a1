"""Image files with the boxes of their objects, however these were written down."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from resnet_jax.data.boxes import Objects, Size, explained, objects_of, problems
from resnet_jax.data.decode import image_size
from resnet_jax.data.sources.base import Example
from resnet_jax.data.sources.codes import Bitmaps, Code
from resnet_jax.errors import DataError, ImageError

log = logging.getLogger("resnet_jax")

_SHOWN = 3  # of a list, in the log and in errors
_SLACK = 2  # pixels


class Remark(NamedTuple):
    """Something about the annotations of a split that does not belong to an image of it.

    Attributes:
      text: how many there are, what is done with them, and what to do.
      items: each of them.
      wrong: whether something has to be corrected.
      quiet: whether only `data check` says it.
    """

    text: str
    items: tuple[str, ...] = ()
    wrong: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class Annotation:
    """What is written down of one object.

    Attributes:
      name: what to call it in an error: `annotation 17`.
      box: x1, y1, x2, y2 in pixels.
      code: of its mask; None = there is none.
      area: in pixels, where the file says it.
    """

    name: str
    box: tuple[float, float, float, float]
    label: int
    crowd: bool = False
    code: Code | None = None
    area: float | None = None


@dataclass(frozen=True)
class Annotated:
    """An image with what is written down of it.

    Attributes:
      shape: height and width of the image that was annotated; None = the file does not say.
      problems: what keeps annotations from being used. Reading the image is an error that says it.
    """

    path: str
    shape: Size | None
    objects: tuple[Annotation, ...]
    problems: tuple[str, ...] = ()


class AnnotatedImages:
    """Examples have `image`, the bytes of a file, `boxes`, `classes`, `crowd`, `ids`, and where the files say them
    `shape` and `area`. If every object of the split has a mask, they also have `instances`.

    What is wrong with the annotations of an image is raised when the image is read. So training leaves such an image
    out and counts it, an evaluation names it, and `data check` lists all of them.

    Args:
      remarks: are said by `data check`, and once in the log.
    """

    def __init__(
        self,
        images: Sequence[Annotated],
        class_names: Sequence[str],
        splits: Sequence[str],
        where: str,
        remarks: Sequence[Remark] = (),
    ) -> None:
        self.class_names, self.splits = tuple(class_names), tuple(splits)
        self._images, self._where = images, where
        found = [one for image in images for one in image.objects]
        bare = [one.name for one in found if one.code is None]
        self._masked = bool(found) and not bare
        self.leaves = ("image", "boxes", "classes", *(["instances"] if self._masked else []))
        if bare and len(bare) < len(found):
            text = f"{len(bare)} of {len(found)} objects have no mask, so the masks of the others are not used"
            remarks = [*remarks, Remark(text, tuple(bare))]
        self.remarks = tuple(remarks)
        for remark in self.remarks:
            if not remark.quiet:
                _warn(f"{where}: {listed(remark.text, remark.items)}")

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Example:
        targets = self._targets(index)
        path = self._images[index].path
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise ImageError(
                f"cannot read {path}: {error.strerror}; it is named in the annotations of {self._where}. Restore the "
                "file, or remove its annotations"
            ) from error
        return {"image": data, "name": path, **targets}  # type: ignore[typeddict-item]

    def objects(self, index: int) -> Objects:
        """The objects of an image, without reading it. Raises `ImageError`."""
        return objects_of(self._targets(index))

    def image_size(self, index: int, *, exif: bool = False) -> Size:
        """Height and width of an image: that which was annotated, or if the file does not say it, from the header of
        the image. Raises `ImageError`."""
        image = self._images[index]
        return image.shape or image_size(image.path, exif=exif)

    def labels(self) -> Int[np.ndarray, " N"]:
        raise DataError(
            f"an image of {self._where} has no single label, as it shows any number of objects; its leaves are "
            f"{', '.join(self.leaves)}. Read those, or choose a data set with labels, such as folder:PATH"
        )

    def _targets(self, index: int) -> dict[str, Any]:
        image = self._images[index]
        found = image.objects
        targets: dict[str, Any] = {
            "boxes": np.array([one.box for one in found], np.float64).reshape(-1, 4),
            "classes": np.array([one.label for one in found], np.int32),
            "crowd": np.array([one.crowd for one in found], bool),
            "ids": [one.name for one in found],
        }
        if all(one.area is not None for one in found):
            targets["area"] = np.array([one.area for one in found], np.float64)
        if image.shape is not None:
            targets["shape"] = image.shape
        if image.problems:
            others = problems(objects_of(targets), image.shape, len(self.class_names)) if image.shape else []
            raise ImageError(explained(image.path, [*image.problems, *others]))
        if self._masked:
            assert image.shape is not None, "masks are of images whose size the file says"
            codes = [one.code for one in found if one.code is not None]
            targets["instances"] = Bitmaps(codes, image.shape, f"a mask of {image.path}")
        return targets


@cache
def _warn(text: str) -> None:
    """Says something in the log, once."""
    log.warning("%s", text)


def listed(text: str, items: Sequence[str]) -> str:
    """A text with the first of the items that it is about."""
    if not items:
        return text
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return f"{text}: {', '.join(items[:_SHOWN])}{more}"


def swapped(boxes: np.ndarray, limits: np.ndarray, *, has_sides: bool) -> np.ndarray:
    """The places of the boxes that cannot be what they are taken for, if the whole file is of the other form: x, y,
    width, height instead of x1, y1, x2, y2, or the other way round. So most boxes cannot be right, and as the other
    form all of them make sense. Empty if it is not so.

    Args:
      boxes: (n, 4), as the file has them.
      limits: (n, 4), width and height of each box's image, twice.
      has_sides: they are taken for x, y, width, height.
    """
    summed = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    taken_for, other = (summed, boxes) if has_sides else (boxes, summed)
    wrong = np.flatnonzero(~_sensible(taken_for, limits))
    return wrong if 2 * len(wrong) > len(boxes) and _sensible(other, limits).all() else wrong[:0]


def _sensible(boxes: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Which boxes have an area and are at most a little outside their images, as in many data sets."""
    inside = (boxes >= -_SLACK) & (boxes <= limits + _SLACK)
    return np.asarray(np.concatenate([boxes[:, 2:] > boxes[:, :2], inside], axis=1).all(axis=1))
