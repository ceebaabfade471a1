"""insightface's training sets: images of identities in record files (`recognition/arcface_torch/dataset.py`).

Record 0 says which records are images, and which say of an identity where its images are. Older files have no such
record: all of theirs are images. `SPLIT.bin` beside them, insightface's sets for verification, are splits too.
"""

from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from resnet_jax.data.sources.base import Example, Source
from resnet_jax.data.sources.folder import is_data
from resnet_jax.data.sources.recordio import RecordFile
from resnet_jax.data.sources.verification import Verification, bins_of
from resnet_jax.errors import DataError, ImageError, unknown_name

# MXNet's `recordio.py`, IRHeader: a flag, a label and two numbers. Where the flag is n > 0, n labels follow.
_HEADER = np.dtype([("flag", "<u4"), ("label", "<f4"), ("id", "<u8"), ("id2", "<u8")])
_LABEL = np.dtype("<f4")
_BEGINNING = _HEADER.itemsize + _LABEL.itemsize
_SAMPLE = 64  # records that are looked at when a file is opened
_MOST = 2**24  # identities, which a float32 can tell apart
PROPERTY = "property"


def rec_splits(folder: Path) -> dict[str, Path]:
    """The files `SPLIT.rec` and `SPLIT.bin` of a folder by the name of the split, `train` first.

    Raises:
      DataError: no such folder, or no record file in it.
    """
    files = sorted(folder.glob("*.rec")) if folder.is_dir() else []
    found = {path.stem: path for path in files if is_data(path.name) and path.is_file()}
    if not found:
        what = "a folder without a file SPLIT.rec" if folder.is_dir() else "no folder"
        raise DataError(
            f"{folder} is {what}; it must hold train.rec and train.idx, as insightface's data sets do. "
            "Correct `rec:PATH`"
        )
    if shared := found.keys() & (bins := bins_of(folder)).keys():
        raise DataError(f"{folder} has {min(shared)}.rec and {min(shared)}.bin, two splits of one name. Rename one")
    return {name: found[name] for name in sorted(found, key=lambda name: (name != "train", name))} | bins


def open_rec(folder: Path, split: str, others: set[str]) -> Source:
    """A split of a folder of record files, or one of the sets for verification beside them.

    Args:
      others: splits that must have the same classes, if they exist.

    Raises:
      DataError: no such split, files that cannot be read, or other classes.
    """
    files = rec_splits(folder)
    if split not in files:
        raise DataError(unknown_name(f"split of rec:{folder} (files SPLIT.rec and SPLIT.bin)", split, files))
    if files[split].suffix == ".bin":
        return Verification(files[split], tuple(files))
    source = IdentityRecords(files[split], tuple(files))
    counts = {split: len(source.class_names)}
    for name in sorted(others - {split} if split in others else ()):
        if name in files and files[name].suffix == ".rec":
            counts[name] = len(IdentityRecords(files[name], ()).class_names)
    if len(set(counts.values())) > 1:
        raise DataError(
            f"the splits of rec:{folder} have different numbers of identities: "
            f"{', '.join(f'{name} {count:,}' for name, count in counts.items())}; the same label would mean two "
            "things. Set data.same_classes = False where the identities of the evaluation are others"
        )
    return source


class IdentityRecords:
    """One record file. The classes are the numbers of the identities.

    How many there are is said by the file `property` beside it (`identities,height,width`), or else by the number of
    records about identities, or else by the largest label.

    Raises:
      DataError: files that are damaged or do not belong together, or a label of no identity.
    """

    def __init__(self, path: Path, splits: tuple[str, ...]) -> None:
        self.splits = splits
        self._records = RecordFile(path)
        self._images, found = self._survey()
        if not self._images:
            raise DataError(f"{path} holds no image. Fetch it and its index again")
        count = _read_property(path.with_name(PROPERTY)) or found
        if not count:
            self._count = _MOST
            count = int(self.labels().max()) + 1
        self._count, self.class_names = count, tuple(map(str, range(count)))
        for index in np.unique(np.linspace(0, len(self._images) - 1, _SAMPLE).astype(int)).tolist():
            with suppress(ImageError):  # training passes over a damaged record, and counts it
                self[index]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Example:
        place = self._images[index]
        record = self._records.read(place)
        beginning = np.frombuffer(record[:_BEGINNING].ljust(_BEGINNING, b"\0"), np.uint8)[None]
        label = self._checked(_labels_of(beginning), np.array([place]))
        image = record[_HEADER.itemsize + _LABEL.itemsize * _flag_of(record) :]
        return {"image": image, "label": int(label[0]), "name": self._records.name(place)}

    def labels(self) -> Int[np.ndarray, " N"]:
        return self._checked(self._labels, np.asarray(self._images))

    @cached_property
    def _labels(self) -> Float[np.ndarray, " N"]:
        """As they are in the file, of every image: one pass over the beginnings of the records."""
        return _labels_of(self._records.beginnings(np.asarray(self._images), _BEGINNING))

    def _checked(self, labels: Float[np.ndarray, " N"], places: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        count = self._count
        wrong = np.flatnonzero(~((labels >= 0) & (labels < count) & (labels == np.floor(labels))))
        if len(wrong):
            raise DataError(
                f"{self._records.name(places[wrong[0]])} has the label {labels[wrong[0]]:g}; labels must be whole "
                f"numbers in 0..{count - 1}. If there are more than {count:,} identities, write "
                f"`identities,height,width` into a file {self._records.path.with_name(PROPERTY)}"
            )
        return labels.astype(np.int64)

    def _survey(self) -> tuple[range, int]:
        """Which records are images, and how many are about identities: none in an older file."""
        records = self._records
        if not len(records) or records.keys[0] != 0 or not _is_about(first_record := records.read(0)):
            return range(len(records)), 0
        told = np.frombuffer(first_record, _LABEL, offset=_HEADER.itemsize)
        if len(told) < 2 or not 1 <= told[0] <= told[1] < 2**53:
            raise DataError(
                f"{records.name(0)} says that images and identities end at {told.tolist()}; it must be two numbers "
                "from 1 on, the second no less. Fetch the files again"
            )
        first, stop = int(told[0]), int(told[1])
        step = int(np.spacing(told[0]))
        if step > 1:  # beyond 2 ** 24 a float32 is not exact
            first = self._first_about(first - step, first + step)
            return records.places(1, first), len(records) - int(np.searchsorted(records.keys, first))
        records.places(first, stop)
        return records.places(1, first), stop - first

    def _first_about(self, low: int, high: int) -> int:
        """The key of the first record, of those from `low` to `high`, that is about an identity; one beyond the last
        record if there is none such."""
        keys = self._records.keys
        for place in range(*np.searchsorted(keys, [low, high + 1])):
            if _is_about(self._records.read(place)):
                return int(keys[place])
        if keys[-1] <= high:
            return int(keys[-1]) + 1
        raise DataError(
            f"{self._records.name(0)} says that the images end near record {low}, and no record from there to {high} "
            "is about an identity. Fetch the files again"
        )


def _is_about(record: bytes) -> bool:
    """Whether a record says something of an identity, or of the whole file, and holds no image."""
    flag = _flag_of(record)
    return flag > 0 and len(record) == _HEADER.itemsize + flag * _LABEL.itemsize


def _flag_of(record: bytes) -> int:
    return int.from_bytes(record[:4], "little")


def _labels_of(beginnings: UInt8[np.ndarray, "N C"]) -> Float[np.ndarray, " N"]:
    """The labels of records: those of the headers, or the first of the labels that follow."""
    header = np.ascontiguousarray(beginnings[:, : _HEADER.itemsize]).view(_HEADER)[:, 0]
    following = np.ascontiguousarray(beginnings[:, _HEADER.itemsize : _BEGINNING]).view(_LABEL)[:, 0]
    return np.where(header["flag"] > 0, following, header["label"])


def _read_property(path: Path) -> int | None:
    """The number of identities. None without a file."""
    if not path.is_file():
        return None
    try:
        identities, height, width = (int(word) for word in path.read_text("utf-8").strip().split(","))
        if min(identities, height, width) < 1 or identities > _MOST:
            raise ValueError(f"the numbers must be from 1 on, and no more than {_MOST:,} identities")
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot read {path}: {error}; it must be three numbers, identities,height,width, such as 93431,112,112. "
            "Correct or remove it"
        ) from error
    return identities
