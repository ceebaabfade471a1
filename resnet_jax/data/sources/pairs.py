"""Folders of images with masks."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
from jaxtyping import Int

from resnet_jax.config import DataConfig
from resnet_jax.data.decode import image_size
from resnet_jax.data.mask_survey import Classes, learn_code, parse_classes
from resnet_jax.data.masks import MaskCode, decode_mask
from resnet_jax.data.sources.base import Example, read_names
from resnet_jax.data.sources.folder import image_files, list_folders
from resnet_jax.errors import DataError, ImageError, unknown_name

LAYOUTS = (
    "PATH/SPLIT/images/NAME.jpg beside PATH/SPLIT/masks/NAME.png, or "
    "PATH/images/SPLIT/NAME.jpg beside PATH/masks/SPLIT/NAME.png"
)
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")
"""Formats that keep a mask as it is. JPEG does not: it makes values that no class has."""
_PARTS = ("images", "masks")
_SHOWN = 5  # files that an error names


class Pair(NamedTuple):
    """The paths of an image and of its mask."""

    image: str
    mask: str


class MaskedImages:
    """Image files with a mask file each. Examples have `image`, the bytes of a file, and `mask`, decoded.

    Args:
      code: what the values of the masks mean.
    """

    leaves = ("image", "mask")

    def __init__(
        self, pairs: Sequence[Pair], class_names: Sequence[str], splits: Sequence[str], code: MaskCode, where: str
    ) -> None:
        self.class_names, self.splits = tuple(class_names), tuple(splits)
        self._pairs, self._code, self._where = pairs, code, where

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Example:
        image, mask = self._pairs[index]
        return {"image": read_file(image), "mask": decode_mask(read_file(mask), self._code, name=mask), "name": image}

    def labels(self) -> Int[np.ndarray, " N"]:
        raise DataError(
            f"an image of {self._where} has no single label, as each of its pixels has a class; its leaves are image "
            "and mask. Read those, or choose a data set with labels, such as folder:PATH"
        )

    def image_size(self, index: int, *, exif: bool = False) -> tuple[int, int]:
        """Height and width of an image, from the header of its file. Raises `ImageError`."""
        return image_size(self._pairs[index].image, exif=exif)


def open_pairs(root: Path, split: str, config: DataConfig) -> MaskedImages:
    """A split of a folder in one of the layouts of `LAYOUTS`.

    The names of the classes are the lines of `root/classes.txt`, in the order of the values. Without this file all
    masks of the training split are read once, and the classes are the numbers up to the largest value.

    Raises:
      DataError: another layout, no such split, an image without a mask, a mask without an image.
    """
    where, splits = f"pairs:{root}", pairs_splits(root)
    if split not in splits:
        raise DataError(unknown_name(f"split of {where}", split, splits))
    learnt_from = config.train_split if config.train_split in splits else splits[0]
    pairs = {name: _match(*_folders_of(root, name)) for name in {split, learnt_from}}
    path = root / "classes.txt"
    classes = parse_classes(read_names(path), path) if path.is_file() else None
    return open_masked(pairs, split, learnt_from, splits, classes, where)


def open_masked(
    pairs: dict[str, list[Pair]],
    split: str,
    learnt_from: str,
    splits: Sequence[str],
    classes: Classes | None,
    where: str,
) -> MaskedImages:
    """Opens a split after the masks of the split `learnt_from` have shown what their values mean."""
    masks = [pair.mask for pair in pairs[learnt_from]]
    names, code = learn_code(lambda index: read_file(masks[index]), len(masks), classes, where)
    return MaskedImages(pairs[split], names, splits, code, f"{where}, split {split!r}")


def pairs_splits(root: Path) -> list[str]:
    """The splits of a folder that `open_pairs` reads."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; it must hold {LAYOUTS}. Correct `pairs:PATH`")
    by_split = [name for name in list_folders(root) if all((root / name / part).is_dir() for part in _PARTS)]
    if by_split:
        return by_split
    both = [set(list_folders(root / part)) if (root / part).is_dir() else set() for part in _PARTS]
    if shared := sorted(both[0] & both[1]):
        return shared
    raise DataError(
        f"{root} holds {', '.join(sorted(os.listdir(root))[:_SHOWN]) or 'nothing'}, and no split with images and "
        f"masks; it must hold {LAYOUTS}. Sort the files into folders"
    )


def _folders_of(root: Path, split: str) -> tuple[Path, Path]:
    """The folders of a split's images and masks."""
    below = root / split
    images, masks = (below / part if (below / part).is_dir() else root / part / split for part in _PARTS)
    return images, masks


def _match(images: Path, masks: Path) -> list[Pair]:
    """Images and masks of equal names, but for the endings, in the order of the names.

    Raises:
      DataError: files that are alone, or several of one name.
    """
    found, others = _by_stem(images), _by_stem(masks)
    lossy = [path for path in others.values() if not path.lower().endswith(MASK_SUFFIXES)]
    if lossy:
        raise DataError(
            f"{len(lossy)} masks have no ending of {', '.join(MASK_SUFFIXES)}: {_some(lossy)}; other formats, such as "
            "JPEG, change the values of pixels. Make the masks anew as PNGs"
        )
    refuse_alone([found[stem] for stem in found if stem not in others], [others[x] for x in others if x not in found])
    if not found:
        raise DataError(f"{images} holds no image; it must hold NAME.jpg or other images. Fill it, or remove the split")
    return [Pair(found[stem], others[stem]) for stem in sorted(found)]


def refuse_alone(images: Sequence[str], masks: Sequence[str]) -> None:
    """Raises a DataError if there are images without a mask, or masks without an image."""
    if images or masks:
        parts = [f"{len(images)} images have no mask: {_some(images)}"] * bool(images)
        parts += [f"{len(masks)} masks have no image: {_some(masks)}"] * bool(masks)
        raise DataError(
            f"{'; '.join(parts)}. Each image must have a mask, NAME.png for NAME.jpg, and each mask an image. Add what "
            "is missing, or move what is alone elsewhere"
        )


def _by_stem(folder: Path) -> dict[str, str]:
    """The image files below a folder by their path below it, without the ending."""
    found: dict[str, str] = {}
    for path in image_files(folder, folder.parent, Counter()):
        stem = os.path.splitext(os.path.relpath(path, folder))[0]
        if stem in found:
            _refuse_twice(found[stem], path)
        found[stem] = path
    return found


def _refuse_twice(first: str, second: str) -> NoReturn:
    raise DataError(
        f"{first} and {second} differ only in their endings; a mask could belong to either. Rename or remove one"
    )


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(sorted(paths)[:_SHOWN]) + more


def read_file(path: str) -> bytes:
    """The bytes of a file. Raises `ImageError`."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        raise ImageError(
            f"cannot read {path}: {error.strerror}; it was there when the folder was listed. Restore or remove it"
        ) from error
