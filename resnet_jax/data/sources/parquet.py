"""Parquet files as Hugging Face publishes image data sets."""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int

from resnet_jax.data.sources.base import Example, check_complete, check_labels, check_same_classes, read_names
from resnet_jax.errors import DataError, unknown_name

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMN = "label"
ROW_GROUPS_IN_MEMORY = 16  # Hugging Face writes groups of 100 images


class Parquet:
    """`SPLIT-*.parquet` in a folder or its `data/`, with a column `image` and an integer column `label`.

    Images are bytes, or a struct of `bytes` and `path`; the path is not used.

    The class names are those in the schema's metadata, or else the lines of a file `names` beside the data. To read a
    row, the row group around it is read. The last few row groups are kept in memory, and nothing else. Shuffled reading
    of large row groups is slow; `data prepare` makes `records:` of them, which are fast.

    Args:
      others: splits that must have the same classes, if they exist.
    """

    def __init__(self, folder: Path, split: str, others: set[str]) -> None:
        found = parquet_files(folder)
        self.splits = tuple(found)
        if split not in found:
            raise DataError(unknown_name(f"split of parquet:{folder} (files SPLIT-*.parquet)", split, found))
        self._where = f"parquet:{folder}, split {split!r}"
        check_complete(found[split], self._where)
        files = [open_file(path) for path in found[split]]
        schemas = {file.path.name: file.schema_arrow for file in files}
        image = _image_column(files[0].schema_arrow, self._where)
        columns = {name: str(schema.field(_image_column(schema, self._where))) for name, schema in schemas.items()}
        if len(set(columns.values())) > 1:
            raise DataError(
                f"the files of {self._where} hold images in different ways: "
                f"{'; '.join(f'{name}: {column}' for name, column in columns.items())}; they must be of one data set. "
                "Fetch them again"
            )
        names = _class_names(folder, files[0].schema_arrow, self._where)
        self.class_names = tuple(names)
        for other in sorted((others & set(found)) - {split}):
            schemas |= {other: open_file(found[other][0]).schema_arrow}
        same = {name: _class_names(folder, each, self._where) for name, each in schemas.items()}
        check_same_classes(f"parquet:{folder}", {split: names, **same})
        self._labels = np.concatenate([_labels(file, self._where) for file in files])
        check_labels(self._labels, names, self._where)
        _check_count(files[0].schema_arrow, split, len(self._labels), self._where)
        self._rows = RowGroups(files, [image])

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        name = f"example {index} of {self._where}"
        (image,) = self._rows.read(index, name)
        return {"image": image, "label": int(self._labels[index]), "name": name}

    def labels(self) -> Int[np.ndarray, " N"]:
        return self._labels


class RowGroups:
    """Columns of images in parquet files, read by the index of the row. Threads and processes may share it.

    Args:
      columns: of bytes, or of structs with `bytes`.
    """

    def __init__(self, files: "Sequence[OpenFile]", columns: Sequence[str]) -> None:
        groups = [
            (number, group, file.metadata.row_group(group).num_rows)
            for number, file in enumerate(files)
            for group in range(file.num_row_groups)
        ]
        self._columns = list(columns)
        self._groups = [(number, group) for number, group, _ in groups]
        self._ends = np.cumsum([rows for _, _, rows in groups])
        self._files = [(file.path, file.metadata) for file in files]
        self._start()

    def _start(self) -> None:
        self._locks = [Lock() for _ in self._groups]
        self._read_group = lru_cache(ROW_GROUPS_IN_MEMORY)(self._read_group_uncached)

    def __getstate__(self) -> dict[str, Any]:
        # Locks and caches cannot be pickled: each worker process makes its own.
        return {name: value for name, value in vars(self).items() if name not in ("_locks", "_read_group")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, index: int, name: str) -> list[bytes]:
        """The bytes in each column.

        Raises:
          DataError: there are none, or the file cannot be read.
        """
        at = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[at - 1]) if at else 0
        with self._locks[at]:  # so that threads that want the same group read it once
            columns = self._read_group(at)
        found = [column[index - start].as_py() for column in columns]
        if None in found:
            raise DataError(
                f"{name} holds no bytes, perhaps only the path of a file elsewhere; images must lie in the parquet "
                "files. Export the data set with its images embedded"
            )
        return found

    def _read_group_uncached(self, at: int) -> list[pa.ChunkedArray]:
        number, group = self._groups[at]
        # Each reading opens the file anew: one open file must not be used from several threads.
        path, metadata = self._files[number]
        try:
            with pq.ParquetFile(path, metadata=metadata, memory_map=True) as file:
                table = file.read_row_group(group, columns=self._columns)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"cannot read rows of {path}: {str(error).splitlines()[0]}. Fetch it again") from error
        return [_bytes_of(table.column(name)) for name in self._columns]


def _bytes_of(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_struct(column.type):
        return pa.chunked_array([chunk.field("bytes") for chunk in column.chunks], column.type.field("bytes").type)
    return column


def parquet_files(folder: Path) -> dict[str, list[Path]]:
    """The files of each split."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; it must hold SPLIT-*.parquet. Correct `parquet:PATH`")
    found: dict[str, list[Path]] = {}
    for path in sorted([*folder.glob("*-*.parquet"), *folder.glob("data/*-*.parquet")]):
        if not path.name.startswith("."):  # a Mac leaves files like `._train-0.parquet` on other disks
            found.setdefault(path.name.partition("-")[0], []).append(path)
    return found


class OpenFile(pq.ParquetFile):
    """An open file that remembers where it is."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, memory_map=True)
        self.path = path


def open_file(path: Path) -> OpenFile:
    """Opens a file. Raises a DataError if it is no complete parquet file."""
    try:
        return OpenFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"cannot read {path}: {str(error).splitlines()[0]}; it must be a complete parquet file. Fetch it again"
        ) from error


def _image_column(schema: pa.Schema, where: str) -> str:
    found = ", ".join(f"{field.name} ({field.type})" for field in schema)
    name = find_images(schema, IMAGE_COLUMNS)
    labelled = LABEL_COLUMN in schema.names and pa.types.is_integer(schema.field(LABEL_COLUMN).type)
    if name is None or not labelled:
        raise DataError(
            f"{where} is no image classification data set: it must have a column `image` of bytes, or of a struct "
            f"with `bytes`, and an integer column `{LABEL_COLUMN}`, but has {found}. "
            "Rename columns, or choose other data; `parquet_masks:PATH` is for masks"
        )
    return name


def find_images(schema: pa.Schema, names: Sequence[str]) -> str | None:
    """The first of these columns that the files have, if it holds bytes, or structs with `bytes`."""
    name = next((name for name in names if name in schema.names), None)
    kind = schema.field(name).type if name else None
    if kind is not None and pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return name if kind is not None and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)) else None


def _labels(file: OpenFile, where: str) -> Int[np.ndarray, " N"]:
    column = file.read(columns=[LABEL_COLUMN]).column(0)
    if column.null_count:
        raise DataError(
            f"{column.null_count} examples of {where} have no label ({file.path}); each must have one. Choose a "
            "labelled split, or leave them out"
        )
    return column.to_numpy().astype(np.int64)


def _described(schema: pa.Schema) -> dict[str, Any]:
    """What Hugging Face's `datasets` writes about a data set into the schema. Empty if there is nothing."""
    try:
        info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]
    except (ValueError, KeyError, TypeError):
        return {}
    return info if isinstance(info, dict) else {}


def _check_count(schema: pa.Schema, split: str, found: int, where: str) -> None:
    promised = ((_described(schema).get("splits") or {}).get(split) or {}).get("num_examples")
    if promised not in (None, found):
        raise DataError(
            f"{where} holds {found} examples, but its schema promises {promised}; some files are missing or too many. "
            "Fetch them again"
        )


def _class_names(folder: Path, schema: pa.Schema, where: str) -> list[str]:
    label = (_described(schema).get("features") or {}).get(LABEL_COLUMN) or {}
    if label.get("names"):
        return [str(name) for name in label["names"]]
    names = folder / "names"
    if names.is_file():
        return read_names(names)
    raise DataError(
        f"{where} does not name its classes; they must be in the schema's metadata, as Hugging Face writes it, or in "
        f"{names}, one a line in the order of the labels. Write that file"
    )
