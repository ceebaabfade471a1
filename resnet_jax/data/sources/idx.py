"""`idx:PATH`: the files of MNIST and of the data sets that came after it (Y. LeCun's page on MNIST describes them).

A file is four bytes (0, 0, the type of the numbers, the number of axes), the length of each axis (4 bytes, the highest
first), and the numbers.
"""

import gzip
import math
import re
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from resnet_jax.data.sources.arrays import Arrays
from resnet_jax.data.sources.base import read_names
from resnet_jax.data.sources.folder import is_data
from resnet_jax.errors import DataError, unknown_name

# MNIST has hyphens, and the copies of it that some programs unpack have a dot.
_FILE = re.compile(r"(?P<split>.+)-(?P<kind>images[-.]idx3|labels[-.]idx1)-ubyte(\.gz)?")
_SPLITS = {"t10k": "test"}  # MNIST's own name
_BYTES = 8  # the type of numbers: uint8
_MOST = 1032  # deflate makes no more bytes of one
_WRITTEN = "SPLIT-images-idx3-ubyte and SPLIT-labels-idx1-ubyte, with or without .gz"


class _Files(NamedTuple):
    """The files of one split."""

    images: Path | None
    labels: Path | None


def idx_splits(folder: Path) -> dict[str, _Files]:
    """The files of each split of a folder. `t10k` is called `test`; a file is preferred to its compressed copy.

    Raises:
      DataError: no such folder, none of its files is of this kind, or two are of the same split.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; it must hold {_WRITTEN}, as MNIST has them. Correct `idx:PATH`")
    found: dict[tuple[str, str], list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if (match := _FILE.fullmatch(path.name)) and is_data(path.name) and path.is_file():
            split = _SPLITS.get(match["split"], match["split"])
            found.setdefault((split, match["kind"][:6]), []).append(path)
    if not found:
        raise DataError(
            f"{folder} holds no file of MNIST's kind; it must hold {_WRITTEN}. Name the folder that holds them"
        )
    for (split, kind), paths in found.items():
        if len({path.name.removesuffix(".gz") for path in paths}) > 1:
            raise DataError(
                f"idx:{folder} has the {kind} of the split {split!r} more than once: "
                f"{', '.join(path.name for path in paths)}; nothing says which are meant. Remove all but one"
            )
    splits = sorted({split for split, _ in found}, key=lambda split: (split != "train", split))
    first = {key: paths[0] for key, paths in found.items()}  # sorted: `x` comes before `x.gz`
    return {split: _Files(first.get((split, "images")), first.get((split, "labels"))) for split in splits}


def open_idx(folder: Path, split: str) -> Arrays:
    """Images (N, H, W, 1) and labels of a split.

    The classes are called as the lines of a file `names` in the folder say, or else by the numbers from 0 to the
    largest label of all splits. A file that is not compressed is read as it is needed, a compressed one into memory.

    Raises:
      DataError: no such split, or a file that is missing, damaged, of another kind or of another length.
    """
    splits = idx_splits(folder)
    if split not in splits:
        raise DataError(unknown_name(f"split of idx:{folder} (files SPLIT-images-idx3-ubyte)", split, splits))
    labels = {}
    for name, files in splits.items():
        for path, kind, other in ((files.images, "images", files.labels), (files.labels, "labels", files.images)):
            if path is None:
                assert other is not None
                raise DataError(
                    f"{folder} has {other.name}, but not the {kind} of the split {name!r}; each split must have images "
                    "and labels. Fetch that file too, or remove this one"
                )
        labels[name] = _read(files.labels, axes=1)
    images = _read(splits[split].images, axes=3)
    if len(images) != len(labels[split]):
        raise DataError(
            f"{splits[split].images} holds {len(images)} images, and {splits[split].labels} {len(labels[split])} "
            "labels; there must be one label for each image. Fetch both again"
        )
    names = folder / "names"
    classes = read_names(names) if names.is_file() else _numbers(max(int(x.max(initial=0)) for x in labels.values()))
    where = f"idx:{folder}, split {split!r}"
    return Arrays(images, labels[split].astype(np.int64), classes, splits=tuple(splits), where=where)


def _numbers(largest: int) -> list[str]:
    return [str(i) for i in range(largest + 1)]


def _read(path: Path | None, axes: int) -> UInt8[np.ndarray, "..."]:
    """The numbers of a file that must have this number of axes."""
    assert path is not None
    try:
        return _parse(path, axes)
    except (OSError, EOFError, zlib.error) as error:  # a damaged gzip file may raise any of these
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(
            f"cannot read {path}: {reason}; it must be a whole file of MNIST's kind. Fetch it again"
        ) from error


def _parse(path: Path, axes: int) -> UInt8[np.ndarray, "..."]:
    packed = path.suffix == ".gz"
    with gzip.open(path) if packed else path.open("rb") as file:
        start = file.read(4 + 4 * axes)
        expected = bytes([0, 0, _BYTES, axes])
        if start[:4] != expected:
            raise DataError(
                f"{path} begins with the bytes {start[:4].hex(' ') or 'of an empty file'}; a file of bytes with {axes} "
                f"axes begins with {expected.hex(' ')}. Fetch it again, or name it as what it is"
            )
        if len(start) < 4 + 4 * axes:
            raise DataError(f"{path} is cut short: it ends within its first {4 + 4 * axes} bytes. Fetch it again")
        shape = tuple(int.from_bytes(start[i : i + 4], "big") for i in range(4, len(start), 4))
        size, on_disk = math.prod(shape), path.stat().st_size
        # A header may claim anything: nothing is reserved for more than the file can hold.
        there = on_disk - len(start)
        if packed:
            content = file.read(size + 1) if size <= _MOST * on_disk else file.read()
            there = len(content)
        if there != size:
            raise DataError(
                f"{path} is {'cut short' if there < size else 'too long'}: it promises {' x '.join(map(str, shape))} "
                f"bytes, and {there} are there. Fetch it again"
            )
    if packed:
        return np.frombuffer(content, np.uint8).reshape(shape)
    return np.memmap(path, np.uint8, "r", offset=len(start), shape=shape) if size else np.zeros(shape, np.uint8)
