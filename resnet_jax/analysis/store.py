"""Features on disk: a folder of `.npy` files that can be mapped into memory, and a file that says what they are.

`features.json` holds what the features are of (`of`: digests of weights, network, data and preparation), the class
names, and how many rows of the arrays are written. `STAGE.npy` (N, ...) and `label.npy` (N,) have one row for each
image, in the order of the split. Rows are written as they come, so the memory does not grow with their number.
"""

import io
import json
import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Float, Int
from numpy.lib import format as npy

from resnet_jax.errors import ConfigError, DataError, StorageError
from resnet_jax.files import explain_failed_write, is_remote, write_atomically

MANIFEST = "features.json"
LABEL = "label"
SYNC_SECONDS = 10.0  # between the times at which what is written is made safe, and counted

Row = tuple[tuple[int, ...], np.dtype]
"""Shape and type of one row of an array."""


@dataclass(frozen=True)
class Features:
    """A complete folder of features. `features["pooled"]` is mapped into memory: what is used is read.

    Attributes:
      stages: the names of the arrays.
      class_names: in the order of the labels.
      of: what the features are of, as `features.json` has it.
    """

    folder: Path
    stages: tuple[str, ...]
    class_names: tuple[str, ...]
    of: Mapping[str, Any]

    def __getitem__(self, stage: str) -> Float[np.ndarray, "N ..."]:
        if stage not in self.stages:
            raise ConfigError(f"{self.folder} holds no features of {stage!r}; it holds {', '.join(self.stages)}")
        return np.load(_file(self.folder, stage), mmap_mode="r")

    @property
    def labels(self) -> Int[np.ndarray, " N"]:
        return np.load(_file(self.folder, LABEL))


def open_features(folder: str | os.PathLike[str]) -> Features:
    """Features that `resnet_jax features` has written.

    Raises:
      DataError: there are none in the folder, or they are not complete.
    """
    folder = Path(folder)
    manifest = _read(folder)
    if manifest is None:
        raise DataError(
            f"{folder} holds no features ({MANIFEST}); name a folder that `resnet_jax features` has written"
        )
    if _written(folder, manifest) < manifest["count"]:
        raise DataError(
            f"{folder} holds features of {_written(folder, manifest)} of {manifest['count']} images; run the command "
            "that began it again, which continues it"
        )
    return Features(folder, tuple(manifest["stages"]), tuple(manifest["class_names"]), manifest["of"])


class Writer:
    """Writes features row by row, and continues a folder that was left half-way.

    Args:
      folder: is made. One that holds anything else is refused.
      of: what the features are of, as JSON. Features of the same are continued, or are complete already.
      shapes: of one row of every stage.
      count: how many rows there will be.
      replace: features of something else are made anew, instead of being refused.

    Attributes:
      done: rows that are written.
      replaced: what the features were of before, in words; empty if nothing was replaced.

    Raises:
      ConfigError: the folder is remote, belongs to something else, or holds features of something else.
      StorageError: it cannot be written to, or the disk has too little room.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        of: Mapping[str, Any],
        shapes: Mapping[str, Row],
        class_names: tuple[str, ...],
        count: int,
        *,
        replace: bool = False,
    ) -> None:
        if is_remote(folder):
            raise ConfigError(
                f"features are mapped from files, which {folder} cannot be; choose a folder of this machine"
            )
        self._folder, self._count = Path(folder), count
        check_owner(self._folder, MANIFEST, "features are")
        stages = {stage: [list(shape), str(dtype)] for stage, (shape, dtype) in shapes.items()}
        self._manifest: dict[str, Any] = {
            "of": dict(of),
            "stages": stages,
            "class_names": list(class_names),
            "count": count,
            "rows": 0,
        }
        self.replaced = ""
        if (old := _read(self._folder)) is not None:
            differ = differences(old["of"], of)
            if not differ and not stages.items() <= old["stages"].items():
                differ = f"other stages ({', '.join(old['stages'])})"
            if differ and not replace:
                raise ConfigError(
                    f"{folder} holds features of {differ}, and keeps them. Choose another folder, or remove that one"
                )
            if differ:
                self.replaced = differ
                for name in _arrays(old):
                    _file(self._folder, name).unlink(missing_ok=True)
            else:
                self._manifest = {**old, "rows": _written(self._folder, old)}
        self.done: int = self._manifest["rows"]
        self._arrays = _arrays(self._manifest)
        self._files: dict[str, IO[bytes]] = {}

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that are written: those that were asked for, or all that the folder was begun with."""
        return tuple(self._manifest["stages"])

    def __enter__(self) -> "Writer":
        if self.done == self._count:
            return self
        self._check_room()
        with explain_failed_write(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            for name, row in self._arrays.items():
                file = self._files[name] = _file(self._folder, name).open("r+b" if self.done else "wb", buffering=0)
                file.write(_header(self._count, row))
                file.truncate(file.tell() + self.done * _bytes(row))
                file.seek(0, os.SEEK_END)
        self._sync()
        return self

    def write(self, rows: Mapping[str, np.ndarray]) -> None:
        """Adds rows, and their `label`. After a kill, the rows of the last seconds are written again.

        Raises:
          StorageError: the disk is full.
        """
        with explain_failed_write(self._folder):
            for name, file in self._files.items():
                array = np.ascontiguousarray(rows[name], self._arrays[name][1])
                content = array.reshape(-1).view(np.uint8).data
                while len(content):  # a nearly full disk may take only a part
                    content = content[file.write(content) :]
        self.done += len(rows[LABEL])
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self._sync()

    def __exit__(self, *error: object) -> None:
        if self._files:
            self._sync()
        for file in self._files.values():
            file.close()

    def _sync(self) -> None:
        self._synced = time.monotonic()
        with explain_failed_write(self._folder):
            for file in self._files.values():
                os.fsync(file.fileno())
        self._manifest["rows"] = self.done
        write_atomically(self._folder / MANIFEST, json.dumps(self._manifest, indent=1))

    def _check_room(self) -> None:
        needed = (self._count - self.done) * sum(map(_bytes, self._arrays.values()))
        above = next(path for path in (self._folder, *self._folder.absolute().parents) if path.exists())
        with explain_failed_write(above):
            free = shutil.disk_usage(above).free
        if needed > free:
            raise StorageError(
                f"the features need {needed / 1e9:.2f} GB, and {above} has room for {free / 1e9:.2f} GB; choose fewer "
                "stages, pooled features or float16, or a folder on another disk"
            )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """In words, in what two descriptions differ; empty if in nothing."""
    names = {name.replace("_", " ") for name in {*old, *new} if old.get(name) != new.get(name)}
    return " and ".join(f"other {name}" for name in sorted(names))


def check_belong(first: Features, second: Features, same: Sequence[str]) -> None:
    """Raises a DataError where two folders of features do not agree in what they are of.

    Args:
      same: in what they must agree: keys of `Features.of`.
    """
    ours, theirs = ({name: features.of.get(name) for name in same} for features in (first, second))
    if differ := differences(ours, theirs):
        raise DataError(
            f"{first.folder} and {second.folder} hold features of {differ}, and cannot be compared; make both with the "
            "same options but for what is to differ"
        )


def check_folder(folder: Path, written: Sequence[str], what: str) -> None:
    """Raises a ConfigError where a folder for features and results holds anything else than these names.

    Args:
      what: whose folder it is, such as `a probe`.
    """
    others = [name for name in sorted(os.listdir(folder)) if name not in written] if folder.is_dir() else []
    if others or folder.is_file():
        held = f"it holds {', '.join(others[:3])}{' ...' * (len(others) > 3)}" if others else "it is a file"
        raise ConfigError(
            f"{folder} belongs to something else than {what}: {held}. Choose a new folder, or that of {what}"
        )


def check_owner(folder: Path, manifest: str, what: str) -> None:
    """Raises where something would be written into somebody else's folder, or cannot be written.

    Args:
      manifest: the file by which one's own folder is known.
      what: is written there, in words: "features are".
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; {what} written into a folder. Choose another place")
    if folder.is_dir() and not (folder / manifest).exists() and (held := sorted(os.listdir(folder))):
        raise ConfigError(
            f"{folder} belongs to something else: it holds {', '.join(held[:3])}{' ...' * (len(held) > 3)} and no "
            f"{manifest}. Choose a new folder"
        )
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise StorageError(f"{folder} could not be written: {above} takes no files. Choose another folder")


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text())
        assert {"of", "stages", "class_names", "count", "rows"} <= manifest.keys()
        return manifest
    except (OSError, ValueError, AttributeError, AssertionError) as error:
        raise DataError(f"{path} cannot be read: {error}. Remove {folder}, and make the features again") from error


def _arrays(manifest: Mapping[str, Any]) -> dict[str, Row]:
    stages = {name: (tuple(shape), np.dtype(dtype)) for name, (shape, dtype) in manifest["stages"].items()}
    return {**stages, LABEL: ((), np.dtype(np.int32))}


def _written(folder: Path, manifest: Mapping[str, Any]) -> int:
    """Rows that the manifest counts and all files hold."""
    rows = [int(manifest["rows"])]
    for name, row in _arrays(manifest).items():
        path = _file(folder, name)
        size = path.stat().st_size if path.exists() else 0
        rows.append(max(0, size - len(_header(manifest["count"], row))) // _bytes(row))
    return min(rows)


def _header(count: int, row: Row) -> bytes:
    """That of a `.npy` file of `count` rows."""
    file = io.BytesIO()
    npy.write_array_header_1_0(
        file, {"descr": npy.dtype_to_descr(row[1]), "fortran_order": False, "shape": (count, *row[0])}
    )
    return file.getvalue()


def _bytes(row: Row) -> int:
    return math.prod(row[0]) * row[1].itemsize


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"
