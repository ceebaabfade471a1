"""Data sets by name."""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from resnet_jax.config import DataConfig
from resnet_jax.data.sources.arrays import (
    DIGITS_SPLITS,
    SYNTHETIC_LENGTHS,
    Synthetic,
    npz_splits,
    open_digits,
    open_npz,
)
from resnet_jax.data.sources.base import Source
from resnet_jax.data.sources.box_csv import box_csv_splits, open_box_csv
from resnet_jax.data.sources.coco import coco_splits, open_coco
from resnet_jax.data.sources.digit_numbers import DigitNumbers
from resnet_jax.data.sources.digit_scenes import DigitScenes
from resnet_jax.data.sources.folder import Folder, HeldOut, folder_splits
from resnet_jax.data.sources.identity_records import open_rec, rec_splits
from resnet_jax.data.sources.idx import idx_splits, open_idx
from resnet_jax.data.sources.lfw import SPLITS as LFW_SPLITS
from resnet_jax.data.sources.lfw import open_lfw
from resnet_jax.data.sources.mask_columns import open_parquet_masks, open_tfds_masks
from resnet_jax.data.sources.moving_digits import MovingDigits
from resnet_jax.data.sources.pairs import open_pairs, pairs_splits
from resnet_jax.data.sources.parquet import Parquet, parquet_files
from resnet_jax.data.sources.records import Records, read_info
from resnet_jax.data.sources.subset import Subset
from resnet_jax.data.sources.tfds import Tfds, open_builder
from resnet_jax.data.sources.verification import open_verification, verification_splits
from resnet_jax.data.sources.video_lists import (
    OFFICIAL_SPLITS,
    kinetics_splits,
    open_hmdb51,
    open_kinetics,
    open_ucf101,
)
from resnet_jax.data.sources.videos import open_videos
from resnet_jax.data.sources.voc import open_voc, voc_splits
from resnet_jax.data.sources.voc_boxes import open_voc_boxes, voc_box_splits
from resnet_jax.errors import DataError, unknown_name


class _Kind(NamedTuple):
    """How to list the splits of a data set, and how to open one of them."""

    splits: Callable[[DataConfig], Iterable[str]]
    open: Callable[[DataConfig, str], Source]


_PLAIN = {
    "digits": _Kind(lambda config: DIGITS_SPLITS, open_digits),
    "digit_scenes": _Kind(lambda config: DigitScenes.splits, DigitScenes),
    "moving_digits": _Kind(lambda config: MovingDigits.splits, MovingDigits),
    "digit_numbers": _Kind(lambda config: DigitNumbers.splits, DigitNumbers),
    "synthetic": _Kind(lambda config: SYNTHETIC_LENGTHS, Synthetic),
}
_WITH_PATH = {
    "boxes": _Kind(lambda c: box_csv_splits(_path(c)), lambda c, split: open_box_csv(_path(c), split)),
    "coco": _Kind(lambda c: coco_splits(_path(c)), lambda c, split: open_coco(_path(c), split)),
    "folder": _Kind(
        lambda c: (c.train_split, c.eval_split) if c.holdout else folder_splits(_path(c)),
        lambda c, split: HeldOut(_path(c), split, c) if c.holdout else Folder(_path(c), split, _both(c)),
    ),
    "hmdb51": _Kind(lambda c: OFFICIAL_SPLITS, lambda c, split: open_hmdb51(_path(c), split, c)),
    "idx": _Kind(lambda c: idx_splits(_path(c)), lambda c, split: open_idx(_path(c), split)),
    "kinetics": _Kind(lambda c: kinetics_splits(_path(c)), lambda c, split: open_kinetics(_path(c), split, c)),
    "lfw": _Kind(lambda c: LFW_SPLITS, lambda c, split: open_lfw(_path(c), split)),
    "npz": _Kind(lambda c: npz_splits(_path(c)), lambda c, split: open_npz(_path(c), split)),
    "pairs": _Kind(lambda c: pairs_splits(_path(c)), lambda c, split: open_pairs(_path(c), split, c)),
    "parquet": _Kind(lambda c: parquet_files(_path(c)), lambda c, split: Parquet(_path(c), split, _both(c))),
    "parquet_masks": _Kind(lambda c: parquet_files(_path(c)), lambda c, split: open_parquet_masks(_path(c), split, c)),
    "rec": _Kind(lambda c: rec_splits(_path(c)), lambda c, split: open_rec(_path(c), split, _both(c))),
    "records": _Kind(lambda c: read_info(_path(c))["splits"], lambda c, split: Records(_path(c), split, exif=c.exif)),
    "tfds": _Kind(
        lambda c: open_builder(_rest(c), c.directory).info.splits, lambda c, split: Tfds(_rest(c), split, c.directory)
    ),
    "tfds_masks": _Kind(
        lambda c: open_builder(_rest(c), c.directory).info.splits,
        lambda c, split: open_tfds_masks(_rest(c), split, c),
    ),
    "ucf101": _Kind(lambda c: OFFICIAL_SPLITS, lambda c, split: open_ucf101(_path(c), split, c)),
    "verification": _Kind(lambda c: verification_splits(_path(c)), lambda c, split: open_verification(_path(c), split)),
    "videos": _Kind(
        lambda c: folder_splits(_path(c), "videos", "mp4"), lambda c, split: open_videos(_path(c), split, c)
    ),
    "voc": _Kind(lambda c: voc_splits(_path(c)), lambda c, split: open_voc(_path(c), split, c)),
    "voc_boxes": _Kind(lambda c: voc_box_splits(_path(c)), lambda c, split: open_voc_boxes(_path(c), split)),
}


def load_source(config: DataConfig, split: str) -> Source:
    """Opens a split of the data set that `config.name` names. Images are read when they are asked for.

    `train[1000:3000]` is a part of a split: the examples with these numbers, in the order of the data set. (TFDS has
    its own rules for what stands in the brackets.)

    Raises:
      DataError: an unknown name or split, data that are missing or cannot be read, or unequal classes.
    """
    kind = _kind(config.name)
    if config.name.startswith("tfds"):
        return kind.open(config, split)
    names: dict[str, Any] = {name: _PART.sub(r"\1", getattr(config, name)) for name in ("train_split", "eval_split")}
    part = _PART.fullmatch(split)
    whole = kind.open(replace(config, **names), part[1] if part else split)
    if part is None:
        return whole
    numbers = range(len(whole))[slice(*(int(number) if number else None for number in part.groups()[1:]))]
    if not numbers:
        raise DataError(f"{split} of {config.name} holds nothing: {part[1]} has {len(whole):,} examples; name others")
    return Subset(whole, numbers)


_PART = re.compile(r"(.+)\[(\d*):(\d*)\]")


def list_splits(config: DataConfig) -> list[str]:
    """The names of the splits of the data set that `config.name` names. Raises as `load_source` does."""
    return list(_kind(config.name).splits(config))


def _kind(name: str) -> _Kind:
    kind, _, rest = name.partition(":")
    if name in _PLAIN:
        return _PLAIN[name]
    if kind in _WITH_PATH and rest:
        return _WITH_PATH[kind]
    hints = [f"{kind}:{'NAME' if kind.startswith('tfds') else 'PATH'}" for kind in _WITH_PATH]
    raise DataError(unknown_name("data set", name, [*_PLAIN, *hints]))


def _rest(config: DataConfig) -> str:
    return config.name.partition(":")[2]


def _path(config: DataConfig) -> Path:
    return Path(_rest(config)).expanduser()


def _both(config: DataConfig) -> set[str]:
    return {config.train_split, config.eval_split} if config.same_classes else set()
