"""The layout of Pascal VOC's segmentation."""

from collections.abc import Sequence
from pathlib import Path

from resnet_jax.config import DataConfig
from resnet_jax.data.mask_survey import Classes
from resnet_jax.data.sources.base import read_names
from resnet_jax.data.sources.pairs import MaskedImages, Pair, open_masked, refuse_alone
from resnet_jax.errors import DataError, unknown_name

CLASS_NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_LISTS = Path("ImageSets") / "Segmentation"
_PARTS = (Path("JPEGImages"), Path("SegmentationClass"), _LISTS)


def open_voc(root: Path, split: str, config: DataConfig) -> MaskedImages:
    """A split: the images that `ImageSets/Segmentation/SPLIT.txt` names, from JPEGImages and SegmentationClass.

    Pixels of the value 255, the borders of objects, are not counted.

    Raises:
      DataError: another layout, no such split, or files that are missing.
    """
    folder, splits = find_voc(root, _PARTS), voc_splits(root)
    if split not in splits:
        raise DataError(unknown_name(f"split of voc:{root}", split, splits))
    list_of = folder / _LISTS / f"{split}.txt"
    names = [line.split()[0] for line in read_names(list_of) if line.strip()]
    if not names:
        raise DataError(f"{list_of} names no image; it must hold one name a line. Copy it again")
    pairs = [
        Pair(str(folder / "JPEGImages" / f"{name}.jpg"), str(folder / "SegmentationClass" / f"{name}.png"))
        for name in names
    ]
    there = {path for part in ("JPEGImages", "SegmentationClass") for path in map(str, (folder / part).glob("*"))}
    refuse_alone(
        [pair.image for pair in pairs if pair.mask not in there],
        [pair.mask for pair in pairs if pair.image not in there],
    )
    return open_masked({split: pairs}, split, split, splits, Classes(CLASS_NAMES), f"voc:{root}")


def voc_splits(root: Path) -> list[str]:
    """The lists of images that a folder holds."""
    return sorted(
        path.stem for path in (find_voc(root, _PARTS) / _LISTS).glob("*.txt") if not path.name.startswith(".")
    )


def find_voc(root: Path, parts: Sequence[Path]) -> Path:
    """The folder that holds these parts of the layout: the one that was named, VOC2012 in it, or VOCdevkit/VOC2012 in
    it.

    Raises:
      DataError: there is none.
    """
    for folder in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
        if all((folder / part).is_dir() for part in parts):
            return folder
    *some, last = map(str, parts)
    raise DataError(
        f"{root} has not the layout of Pascal VOC; it must hold {', '.join(some)} and {last}, itself or in "
        "VOCdevkit/VOC2012. Correct the path"
    )
