"""Masks in a column or feature of their own: parquet files, and TensorFlow Datasets."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from resnet_jax.config import DataConfig
from resnet_jax.data.mask_survey import Classes, check_class_count, learn_code, parse_classes
from resnet_jax.data.masks import MaskCode, decode_mask
from resnet_jax.data.sources.base import Example, check_complete, read_names
from resnet_jax.data.sources.parquet import IMAGE_COLUMNS, RowGroups, find_images, open_file, parquet_files
from resnet_jax.data.sources.tfds import TfdsRecords, open_builder
from resnet_jax.errors import DataError, unknown_name

MASK_NAMES = ("mask", "segmentation_mask", "segmentation_label", "annotation", "label")
"""What columns and features of masks are called. The first that there is and that holds images is taken."""

Read = Callable[[int, str], Sequence[bytes]]
"""Gives the encoded image and mask of an example, by its index and its name in an error."""


class MaskColumns:
    """Examples have `image`, the bytes of a file, and `mask`, decoded.

    Args:
      count: how many examples there are.
      code: what the values of the masks mean.
      where: the name of the data set and split in an error.
    """

    leaves = ("image", "mask")

    def __init__(
        self, read: Read, count: int, class_names: Sequence[str], splits: Sequence[str], code: MaskCode, where: str
    ) -> None:
        self.class_names, self.splits = tuple(class_names), tuple(splits)
        self._read, self._count, self._code, self._where = read, count, code, where

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self._count:
            raise IndexError(index)
        name = f"example {index} of {self._where}"
        image, mask = self._read(index, name)
        return {"image": image, "mask": decode_mask(mask, self._code, name=f"the mask of {name}"), "name": name}

    def labels(self) -> Int[np.ndarray, " N"]:
        raise DataError(
            f"an image of {self._where} has no single label here, as each of its pixels has a class; its leaves are "
            "image and mask. Read those, or choose a data set with labels"
        )


def open_parquet_masks(folder: Path, split: str, config: DataConfig) -> MaskColumns:
    """`SPLIT-*.parquet` in a folder or its `data/`, with a column of images and one of masks.

    The classes come from `folder/classes.txt`, as in `open_pairs`. Without it all masks of the training split are read.

    Raises:
      DataError: no such split, other columns, or files that are missing.
    """
    where, found = f"parquet_masks:{folder}", parquet_files(folder)
    if split not in found:
        raise DataError(unknown_name(f"split of {where} (files SPLIT-*.parquet)", split, found))
    learnt_from = config.train_split if config.train_split in found else split
    path = folder / "classes.txt"
    classes = parse_classes(read_names(path), path) if path.is_file() else None
    rows = _open_rows(found[learnt_from], f"{where}, split {learnt_from!r}", masks_only=True)
    names, code = learn_code(lambda i: rows.read(i, f"mask {i} of {where}")[0], len(rows), classes, where)
    place = f"{where}, split {split!r}"
    rows = _open_rows(found[split], place, masks_only=False)
    return MaskColumns(rows.read, len(rows), names, list(found), code, place)


def _open_rows(paths: Sequence[Path], where: str, *, masks_only: bool) -> RowGroups:
    check_complete(paths, where)
    files = [open_file(path) for path in paths]
    columns = {_columns(file.schema_arrow, where) for file in files}
    if len(columns) > 1:
        raise DataError(
            f"the files of {where} have images and masks in different columns: {sorted(columns)}; they must be of one "
            "data set. Fetch them again"
        )
    image, mask = columns.pop()
    return RowGroups(files, [mask] if masks_only else [image, mask])


def _columns(schema: pa.Schema, where: str) -> tuple[str, str]:
    image = find_images(schema, IMAGE_COLUMNS)
    mask = next((name for name in MASK_NAMES if find_images(schema, [name])), None)
    if image is None or mask is None:
        found = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise DataError(
            f"{where} has no images with masks: it must have a column `image` and one of {', '.join(MASK_NAMES)}, both "
            f"of bytes or of a struct with `bytes`, but has {found}. Rename columns, or choose other data"
        )
    return image, mask


def open_tfds_masks(name: str, split: str, config: DataConfig) -> MaskColumns:
    """A TensorFlow Datasets data set prepared as array_record, with a feature `image` and one of `MASK_NAMES`.

    The classes are those that the feature of the masks names. If it names none, all masks of the training split are
    read, and the classes are the numbers up to the largest value.

    Raises:
      DataError: as `Tfds`, or features without masks.
    """
    import tensorflow_datasets as tfds

    builder, where = open_builder(name, config.directory), f"tfds_masks:{name}"
    features = builder.info.features
    images = [key for key, value in features.items() if isinstance(value, tfds.features.Image)]
    mask = next((key for key in MASK_NAMES if key in images), None)
    if "image" not in images or mask is None:
        found = ", ".join(f"{key} ({type(value).__name__})" for key, value in sorted(features.items()))
        raise DataError(
            f"{where} has no images with masks: it must have an `image` and an image called one of "
            f"{', '.join(MASK_NAMES)}, but has {found}. Choose another one"
        )
    classes = None
    if isinstance(features[mask], tfds.features.LabeledImage) and features[mask].num_classes:
        check_class_count(features[mask].num_classes, where)
        classes = Classes(tuple(features[mask].names))
    splits = tuple(builder.info.splits)
    known = config.train_split.partition("[")[0] in splits
    learnt_from = TfdsRecords(builder, name, config.train_split if known else split, config.directory)
    names, code = learn_code(lambda i: learnt_from[i][mask], len(learnt_from), classes, where)
    records = TfdsRecords(builder, name, split, config.directory)
    return MaskColumns(
        partial(_read_record, records, mask), len(records), names, splits, code, f"{where}, split {split!r}"
    )


def _read_record(records: TfdsRecords, mask: str, index: int, name: str) -> tuple[bytes, bytes]:
    record = records[index]
    return record["image"], record[mask]
