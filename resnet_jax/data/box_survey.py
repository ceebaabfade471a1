"""What the objects of a split are: how many there are of each class and in an image, and whether they have room."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from resnet_jax.data.boxes import Objects, reaching_out
from resnet_jax.data.sources import Source, read_objects
from resnet_jax.errors import ConfigError, ImageError

_SHOWN = 3  # images that an error names


class Boxed(NamedTuple):
    """What is said of an image with boxes.

    Attributes:
      name: of the image.
      objects: how many there are, without crowds.
      out: the objects that reach beyond the image by more than a pixel.
    """

    name: str
    objects: int
    crowds: int
    out: tuple[str, ...]


def boxed_of(objects: Objects, shape: Sequence[int], name: str) -> Boxed:
    """What is said of an image of this shape."""
    crowds = int(objects.crowd.sum())
    return Boxed(name, len(objects.boxes) - crowds, crowds, tuple(reaching_out(objects, shape)))


class BoxCounts(NamedTuple):
    """The objects of a split. Crowds are counted by themselves.

    Attributes:
      of_class: objects of each class.
      images: images that show each class.
      in_image: objects of each image that can be read.
      broken: images whose annotations cannot be used.
    """

    of_class: Int[np.ndarray, " K"]
    images: Int[np.ndarray, " K"]
    in_image: Int[np.ndarray, " N"]
    crowds: int
    broken: int


def count_boxes(source: Source, threads: int = 8) -> BoxCounts:
    """Counts the objects of a split. No image is read where the source has `objects`."""
    count = len(source.class_names)

    def look(index: int) -> tuple[np.ndarray, int] | None:
        try:
            objects = read_objects(source, index)
        except ImageError:
            return None
        inside = (objects.classes > 0) & (objects.classes < count) & ~objects.crowd
        return np.bincount(objects.classes[inside], minlength=count), int(objects.crowd.sum())

    with ThreadPoolExecutor(threads) as pool:
        every = list(pool.map(look, range(len(source))))
    found = [one for one in every if one is not None]
    each = np.array([classes for classes, _ in found], np.int64).reshape(-1, count)
    crowds = sum(number for _, number in found)
    return BoxCounts(each.sum(0), (each > 0).sum(0), each.sum(1), crowds, len(every) - len(found))


def check_places(source: Source, places: int, where: str, threads: int = 8) -> None:
    """Refuses a split whose images have more objects than a row of a batch has places.

    Args:
      places: for objects, without crowds.
      where: the name of the data set.

    Raises:
      ConfigError: it names the images with the most objects.
    """
    most = getattr(source, "places", None)
    if most is not None and most <= places:
        return  # none has more, and to count them would mean to make all of them

    def look(index: int) -> int:
        try:
            return int((~read_objects(source, index).crowd).sum())
        except ImageError:
            return 0  # training leaves it out

    with ThreadPoolExecutor(threads) as pool:
        counts = np.array(list(pool.map(look, range(len(source)))), int)
    order = np.argsort(-counts, kind="stable")
    if not len(order) or counts[order[0]] <= places:
        return
    many = int((counts > places).sum())
    named = ", ".join(f"{_name(source, index)} ({counts[index]})" for index in order[: min(many, _SHOWN)].tolist())
    raise ConfigError(
        f"{many} of {len(source)} images of {where} have more than task.max_boxes = {places} objects: {named}"
        f"{' and others' * (many > _SHOWN)}. Set task.max_boxes to at least {counts[order[0]]}"
    )


def _name(source: Source, index: int) -> str:
    try:
        return source[index].get("name", f"image {index}")
    except ImageError:
        return f"image {index}"
