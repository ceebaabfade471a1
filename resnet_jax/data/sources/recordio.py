"""MXNet's record files: `NAME.rec`, and `NAME.idx` with a line `key<TAB>position` for each record.

The framing is dmlc-core's (`src/recordio.cc`): a magic number, a word of a flag and a length, the bytes, and zeros up
to a multiple of four. Where a record itself holds the magic number, at a multiple of four, it is written in parts, and
the number is left out between them.
"""

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from jaxtyping import Int, UInt8
from pyarrow import csv

from resnet_jax.errors import DataError, ImageError

MAGIC = 0xCED7230A
_WORD, _FRAME = 4, 8  # bytes
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)  # flags of a part
_LENGTH_BITS = 29
_AT_ONCE = 1 << 16  # records whose first bytes are gathered together


class RecordFile:
    """An indexed file of records. Threads and processes may share it.

    Attributes:
      keys: of the records, sorted.

    Raises:
      DataError: no such files, an index that is damaged, or one that names what the records do not have.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._index = path, path.with_suffix(".idx")
        for file in (self.path, self._index):
            if not file.is_file():
                raise DataError(
                    f"there is no {file}; {path.name} and {self._index.name} must lie together. Fetch both, or make "
                    "the index with tools/rec2idx.py of MXNet"
                )
        keys, starts = self._read_index()
        order = np.argsort(keys, kind="stable")
        self.keys, self._starts = keys[order], starts[order]
        twice = np.flatnonzero(np.diff(self.keys) == 0)
        if len(twice):
            raise DataError(f"{self._index} has the key {self.keys[twice[0]]} more than once. Make the index anew")
        self._size = path.stat().st_size
        beyond = np.flatnonzero((self._starts < 0) | (self._starts > self._size - _FRAME))
        if len(beyond):
            raise DataError(
                f"{self._index} has record {self.keys[beyond[0]]} at byte {self._starts[beyond[0]]:,}, and {path} has "
                f"{self._size:,} bytes; it is cut short, or the two are of different data sets. Fetch both again"
            )
        self._check_last()

    def __len__(self) -> int:
        return len(self.keys)

    def places(self, first: int, stop: int) -> range:
        """Where in `keys` those from `first` to `stop` are.

        Raises:
          DataError: one of them is missing.
        """
        place = int(np.searchsorted(self.keys, first))
        there = self.keys[place : int(np.searchsorted(self.keys, stop))]
        if len(there) < stop - first:
            out_of_step = np.flatnonzero(there != first + np.arange(len(there)))
            missing = first + int(out_of_step[0] if len(out_of_step) else len(there))
            raise DataError(
                f"{self._index} lacks {stop - first - len(there):,} of the records {first} to {stop - 1}, the first is "
                f"{missing}; all must be there. Fetch it again, or make it anew with tools/rec2idx.py of MXNet"
            )
        return range(place, place + stop - first)

    def name(self, place: int) -> str:
        """What to call a record in an error."""
        return f"record {self.keys[place]} of {self.path}"

    def read(self, place: int) -> bytes:
        """The bytes of a record.

        Args:
          place: in `keys`.

        Raises:
          ImageError: no whole record is there.
        """
        try:
            with self.path.open("rb", buffering=0) as file:
                return self._read(file, place)
        except OSError as error:
            raise ImageError(f"cannot read {self.name(place)}: {error.strerror}. Restore the file") from error

    def beginnings(self, places: Int[np.ndarray, " N"], count: int) -> UInt8[np.ndarray, "N C"]:
        """The first `count` bytes of records, with zeros behind a record that is shorter.

        Raises:
          ImageError: no whole record is there.
        """
        mapped = np.memmap(self.path, np.uint8, "r")
        found = np.zeros((len(places), count), np.uint8)
        for first in range(0, len(places), _AT_ONCE):
            some = places[first : first + _AT_ONCE]
            at = self._starts[some][:, None] + np.arange(_FRAME + count)
            seen = mapped[np.minimum(at, self._size - 1)]
            magic, word = np.ascontiguousarray(seen[:, :_FRAME]).view("<u4").T
            length = word & ((1 << _LENGTH_BITS) - 1)
            plain = (magic == MAGIC) & (word >> _LENGTH_BITS == _WHOLE) & (length >= count) & (at[:, -1] < self._size)
            found[first : first + len(some)][plain] = seen[plain, _FRAME:]
            for row in np.flatnonzero(~plain):
                record = np.frombuffer(self.read(int(some[row]))[:count], np.uint8)
                found[first + row, : len(record)] = record
        return found

    def _read(self, file: BinaryIO | io.FileIO, place: int) -> bytes:
        parts: list[bytes] = []
        at, expected = int(self._starts[place]), (_WHOLE, _FIRST)
        while True:
            file.seek(at)
            frame = file.read(_FRAME)
            magic, word = (int.from_bytes(frame[i : i + _WORD], "little") for i in (0, _WORD))
            flag, length = word >> _LENGTH_BITS, word & ((1 << _LENGTH_BITS) - 1)
            if len(frame) < _FRAME or magic != MAGIC or flag not in expected:
                raise self._broken(place, f"no {'part of it' if parts else 'record'} begins at byte {at:,}")
            part = file.read(length)
            if len(part) < length:
                raise self._broken(place, f"the file ends within it, at byte {self._size:,}")
            parts.append(part)
            if flag in (_WHOLE, _LAST):
                return MAGIC.to_bytes(_WORD, "little").join(parts)
            at, expected = at + _FRAME + -(-length // _WORD) * _WORD, (_MIDDLE, _LAST)

    def _broken(self, place: int, reason: str) -> ImageError:
        return ImageError(
            f"cannot read {self.name(place)}: {reason}; {self._index.name} must be its index, and both must be whole. "
            "Fetch both again"
        )

    def _check_last(self) -> None:
        """A file that was cut short lacks its end, where no other reading may come by for hours."""
        if len(self.keys):
            self.read(int(np.argmax(self._starts)))

    def _read_index(self) -> tuple[Int[np.ndarray, " K"], Int[np.ndarray, " K"]]:
        names = ["key", "position"]
        try:
            table = csv.read_csv(
                self._index,
                read_options=csv.ReadOptions(column_names=names),
                parse_options=csv.ParseOptions(delimiter="\t"),
                convert_options=csv.ConvertOptions(column_types=dict.fromkeys(names, pa.int64()), null_values=[]),
            )
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"cannot read {self._index}: {str(error).splitlines()[0]}; each line must be a key, a tab and the "
                "position of a record, whole numbers. Fetch it again, or make it anew with tools/rec2idx.py of MXNet"
            ) from error
        return table.column(0).to_numpy(), table.column(1).to_numpy()
