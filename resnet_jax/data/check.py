"""Reads every image, mask and video of a data set once: which are broken, odd, small, rare, or there twice."""

import hashlib
import io
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from resnet_jax.config import DataConfig
from resnet_jax.data.box_survey import Boxed, boxed_of
from resnet_jax.data.boxes import checked_objects
from resnet_jax.data.broken import too_many
from resnet_jax.data.decode import decode_image
from resnet_jax.data.mask_survey import SAMPLE
from resnet_jax.data.masks import NOT_COUNTED, check_size, check_values
from resnet_jax.data.orientation import orientation
from resnet_jax.data.sources import Compared, Source, leaves_of, missing_leaves
from resnet_jax.data.transforms import decode
from resnet_jax.data.video.base import Video
from resnet_jax.data.video.survey import Length, digest_of, length_of
from resnet_jax.errors import DataError

PLAIN = ("RGB", "L", "1", "P")
"""Pillow's modes that are not reported: colour, grey, two colours, a palette."""


class _Looked(NamedTuple):
    name: str = ""
    labels: tuple[int, ...] = ()
    digest: str = ""
    mode: str = ""
    size: tuple[int, int] = (0, 0)
    turned: bool = False
    length: Length | None = None
    boxed: Boxed | None = None
    error: str = ""


@dataclass
class Checked:
    """The findings in one split.

    Attributes:
      broken: the error of each image that cannot be read. The error names the image.
      modes: how many images have each of Pillow's modes that is not in `PLAIN`. Alpha is dropped, CMYK converted.
      turned: how many images EXIF says to turn. Training does so if `data.exif` is set.
      sizes: (height, width) in pixels of every image that can be read.
      lengths: of every video that can be read.
      boxed: of every image with boxes that can be read.
      per_class: number of images that show each class, in the order of the labels; with masks, of those that can be
        read.
      digests: digest of a file's bytes, or of pixels -> the images that have it, as (name, labels).
    """

    count: int = 0
    broken: list[str] = field(default_factory=list)
    modes: Counter[str] = field(default_factory=Counter)
    turned: int = 0
    sizes: list[tuple[int, int]] = field(default_factory=list)
    lengths: list[Length] = field(default_factory=list)
    boxed: list[Boxed] = field(default_factory=list)
    per_class: list[int] = field(default_factory=list)
    digests: dict[str, list[tuple[str, tuple[int, ...]]]] = field(default_factory=lambda: defaultdict(list))

    @property
    def repeated(self) -> list[list[tuple[str, tuple[int, ...]]]]:
        """Groups of equal images."""
        return [group for group in self.digests.values() if len(group) > 1]


def check(source: Source, threads: int = 8, *, exif: bool = False) -> Checked:
    """Reads and decodes every image or video of a split, and every mask and every object if there are such instead of
    labels.

    Raises:
      DataError: examples without image, or with neither label, mask, boxes nor pair.
    """
    masked = has_masks(source) or has_boxes(source)
    target = "same" if isinstance(source, Compared) else "label"
    if masked:
        target = "mask" if has_masks(source) else "boxes"
    shown = "video" if has_videos(source) else "image"
    if text := missing_leaves(source, (shown, target), "data check", "the data set"):
        raise DataError(text)
    count = len(source.class_names)
    per_class = np.zeros(count, int) if masked else np.bincount(classes_of(source), minlength=count)
    found = Checked(count=len(source))
    with ThreadPoolExecutor(threads) as pool:
        for looked in pool.map(lambda index: _look(source, index, exif), range(len(source))):
            if looked.error:
                found.broken.append(looked.error)
                continue
            found.sizes.append(looked.size)
            found.lengths += [looked.length] if looked.length else []
            found.boxed += [looked.boxed] if looked.boxed else []
            found.turned += looked.turned
            found.digests[looked.digest].append((looked.name, looked.labels))
            if masked:
                per_class[list(looked.labels)] += 1
            if looked.mode not in PLAIN:
                found.modes[looked.mode] += 1
    found.per_class = per_class.tolist()
    return found


def check_some(config: DataConfig, source: Source, threads: int = 8) -> None:
    """Looks at `SAMPLE` images and masks, spread over a split, before anything is trained on it.

    Raises:
      DataError: more of these than `config.max_broken_fraction` of the split cannot be used: masks of another size than
        their images, values of no class, files that cannot be read. It names the first.
    """
    spread = np.unique(np.linspace(0, len(source) - 1, SAMPLE).astype(int)).tolist()
    with ThreadPoolExecutor(threads) as pool:
        looked = pool.map(lambda index: _look(source, index, config.exif), spread)
        reasons = {index: one.error for index, one in zip(spread, looked, strict=True) if one.error}
    if len(reasons) > config.max_broken_fraction * len(source):
        raise too_many(reasons, len(source), config.max_broken_fraction)


def has_masks(source: Source) -> bool:
    """Whether a mask, and no label, says what an image shows."""
    return "mask" in leaves_of(source) and "label" not in leaves_of(source)


def has_boxes(source: Source) -> bool:
    """Whether boxes around objects, and no label, say what an image shows."""
    return "boxes" in leaves_of(source) and "label" not in leaves_of(source)


def has_videos(source: Source) -> bool:
    """Whether the examples are videos."""
    return "video" in leaves_of(source)


def classes_of(source: Source) -> Int[np.ndarray, " N"]:
    """The class of each example: its label, or of pairs whether both images show one identity."""
    return np.repeat(source.same, 2).astype(int) if isinstance(source, Compared) else source.labels()


class Pixels(NamedTuple):
    """What the masks of a split hold.

    Attributes:
      of_class: pixels of each class.
      not_counted: pixels of the value 255.
      images: images that show each class.
    """

    of_class: Int[np.ndarray, " K"]
    not_counted: int
    images: Int[np.ndarray, " K"]


def count_pixels(source: Source, threads: int = 8) -> Pixels:
    """Counts the pixels of each class in all masks of a split. Raises `ImageError` where a mask cannot be read."""
    classes = len(source.class_names)

    def histogram(index: int) -> Int[np.ndarray, " 256"]:
        example = source[index]
        values = check_values(example["mask"], classes, name=f"the mask of {example.get('name', f'image {index}')}")
        return np.bincount(values.ravel(), minlength=256)

    total, images = np.zeros(256, np.int64), np.zeros(256, np.int64)
    with ThreadPoolExecutor(threads) as pool:
        for counts in pool.map(histogram, range(len(source))):
            total += counts
            images += counts > 0
    return Pixels(total[:classes], int(total[NOT_COUNTED]), images[:classes])


def in_both(first: Checked, second: Checked) -> Iterator[tuple[str, str]]:
    """The names of images that are in both splits. A test on images that were trained on says nothing."""
    for digest in first.digests.keys() & second.digests.keys():
        yield first.digests[digest][0][0], second.digests[digest][0][0]


def in_several_classes(found: Checked) -> list[Sequence[str]]:
    """The names of equal images that have different classes."""
    return [[name for name, _ in group] for group in found.repeated if len({labels for _, labels in group}) > 1]


class Sample(NamedTuple):
    """An image of a class, for people to look at."""

    pixels: UInt8[np.ndarray, "h w 3"]
    label: int
    name: str


def samples(source: Source, per_class: int, classes: int, side: int, *, exif: bool = False) -> list[Sample]:
    """Some images of each of the first classes, spread over the class, without those that cannot be read. Of a video it
    is the frame in the middle.

    Args:
      side: pixels that neither side has more of.
      exif: turn photographs upright.
    """
    labels, found = source.labels(), []
    for label in range(min(classes, len(source.class_names))):
        here = np.flatnonzero(labels == label)
        spread = here[np.unique(np.linspace(0, len(here) - 1, per_class).astype(int))] if len(here) else here
        taken = 0
        for index in [*spread, *np.setdiff1d(here, spread)]:
            if taken == per_class:
                break
            try:
                example = source[int(index)]
                name = example.get("name", f"image {index}")
                data = _middle(example["video"]) if has_videos(source) else example["image"]
                image = Image.fromarray(decode(data, 3, name=name, exif=exif))
            except DataError:
                continue
            image.thumbnail((side, side))
            found.append(Sample(np.asarray(image), label, os.path.basename(name)))
            taken += 1
    return found


def _middle(video: Video) -> UInt8[np.ndarray, "H W C"]:
    return video.read(np.array([len(video.times()) // 2]))[0]


def _look(source: Source, index: int, exif: bool) -> _Looked:
    try:
        example = source[index]
        name = example.get("name", f"image {index}")
        if has_videos(source):
            digest, (height, width, channels) = digest_of(example["video"])
            labels, length = (example["label"],), length_of(example["video"])
            mode = "L" if channels == 1 else "RGB"
            return _Looked(name, labels, digest, mode, (height, width), length=length)
        data = example["image"]
        pixels = data if isinstance(data, np.ndarray) else decode_image(data, 3, name=name, exif=exif)
        count, boxed = len(source.class_names), None
        if has_boxes(source):
            masks = "instances" in leaves_of(source)
            objects = checked_objects({**example, "name": name}, pixels.shape, count, masks=masks)
            labels, boxed = tuple(np.unique(objects.classes).tolist()), boxed_of(objects, pixels.shape, name)
        if has_masks(source):
            check_size(pixels.shape, example["mask"].shape, name=name)
            values = np.unique(check_values(example["mask"], count, name=f"the mask of {name}"))
            labels = tuple(values[values < count].tolist())
        elif boxed is None:
            labels = (int(example["same"]) if isinstance(source, Compared) else example["label"],)
        if isinstance(data, np.ndarray):
            digest = hashlib.sha256(data.tobytes()).hexdigest() + str(data.shape)
            mode = "L" if data.shape[2] == 1 else "RGB"
            return _Looked(name, labels, digest, mode, data.shape[:2], boxed=boxed)
    except DataError as error:
        return _Looked(error=str(error))
    with Image.open(io.BytesIO(data)) as file:
        digest = hashlib.sha256(data).hexdigest()
        return _Looked(name, labels, digest, file.mode, pixels.shape[:2], orientation(file) != 1, boxed=boxed)
