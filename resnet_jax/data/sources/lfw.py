"""Labeled Faces in the Wild (Huang et al. 2007), and sets in its layout: `NAME/NAME_0001.jpg` and `pairs.txt`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from resnet_jax.data.sources.compared import Compared
from resnet_jax.data.sources.folder import is_data, is_image, list_folders
from resnet_jax.data.sources.pairs import read_file
from resnet_jax.errors import DataError, unknown_name

SPLITS = ("test",)
PAIRS = "pairs.txt"
_SHOWN = 5  # images that an error names


class _Pair(NamedTuple):
    """Two images, each a name and a number, in a line of the list."""

    line: int
    first: tuple[str, int]
    second: tuple[str, int]

    @property
    def same(self) -> bool:
        return self.first[0] == self.second[0]


def open_lfw(root: Path, split: str) -> "Lfw":
    """The pairs of `root/pairs.txt`, in its order: fold by fold, so that a tenth of them is a fold.

    Raises:
      DataError: another split, no list, a line that is no pair, another number of pairs than the first line says, or
        images that are not there.
    """
    if split not in SPLITS:
        raise DataError(unknown_name(f"split of lfw:{root} (the pairs of {PAIRS})", split, SPLITS))
    path = root / PAIRS
    pairs = _read_pairs(path)
    files = _files_of(root, {image[0] for pair in pairs for image in (pair.first, pair.second)})
    wanted = [(pair.line, image) for pair in pairs for image in (pair.first, pair.second)]
    unknown = [(line, *image) for line, image in wanted if image not in files]
    if unknown:
        shown = ", ".join(f"{name}/{name}_{number:04} (line {line})" for line, name, number in unknown[:_SHOWN])
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        raise DataError(
            f"{path} names {len(unknown):,} of {len(wanted):,} images that are not in {root}: {shown}{more}; each must "
            "be there as NAME/NAME_0001.jpg, or with another ending of an image. Fetch them, or correct the list"
        )
    return Lfw([files[image] for _, image in wanted], [pair.same for pair in pairs], f"lfw:{root}")


class Lfw(Compared):
    """Image files in pairs: files 2i and 2i + 1 are pair i."""

    def __init__(self, paths: Sequence[str], same: Sequence[bool], where: str) -> None:
        super().__init__(np.array(same, bool), SPLITS, where)
        self._paths = paths

    def read(self, index: int) -> tuple[bytes, str]:
        return read_file(self._paths[index]), self._paths[index]


def _read_pairs(path: Path) -> list[_Pair]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(
            f"cannot read {path}: {reason}; `lfw:PATH` must name a folder with LFW's list of pairs in it. Fetch it, or "
            "correct the path"
        ) from error
    try:
        numbers = [int(word) for word in (lines or [""])[0].split()]
    except ValueError:
        numbers = []
    if len(numbers) != 2:
        raise DataError(
            f"{path} begins with the line {(lines or [''])[0]!r}; it must be two numbers, the folds and the pairs of "
            "each kind in a fold, such as 10 300. Fetch it again"
        )
    pairs = [_parse(line, number, path) for number, line in enumerate(lines[1:], 2) if line.strip()]
    folds, of_each = numbers
    if len(pairs) != 2 * folds * of_each or not pairs:
        raise DataError(
            f"{path} holds {len(pairs):,} pairs, and its first line says {folds} folds of {of_each} pairs of each "
            f"kind, {2 * folds * of_each:,}; they must agree, and be at least one. Fetch it again"
        )
    return pairs


def _parse(line: str, number: int, path: Path) -> _Pair:
    words = line.strip().split("\t") if "\t" in line else line.split()
    try:
        match words:
            case [name, first, second]:
                return _Pair(number, (name, int(first)), (name, int(second)))
            case [name, first, other, second]:
                return _Pair(number, (name, int(first)), (other, int(second)))
    except ValueError:
        pass
    raise DataError(
        f"line {number} of {path} is {line!r}; it must be a name and two numbers, or a name and a number twice. "
        "Correct it"
    )


def _files_of(root: Path, names: set[str]) -> dict[tuple[str, int], str]:
    """The image files of these folders by name and number."""
    found: dict[tuple[str, int], str] = {}
    for name in sorted(names & set(list_folders(root))):
        for file in sorted(os.listdir(root / name)):
            stem, number = os.path.splitext(file)[0].rpartition("_")[::2]
            if stem == name and number.isdecimal() and is_data(file) and is_image(file):
                path = str(root / name / file)
                if (first := found.setdefault((name, int(number)), path)) != path:
                    raise DataError(
                        f"{first} and {path} are both image {int(number)} of {name}; a pair could mean either. Remove "
                        "one"
                    )
    return found
