"""Image files in torchvision's layout."""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int

from resnet_jax.config import DataConfig
from resnet_jax.data.sources.base import Example, check_same_classes
from resnet_jax.errors import DataError, ImageError, unknown_name

log = logging.getLogger("resnet_jax")

# Formats that cameras, scanners and programs write and that Pillow opens without a plugin.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".avifs", ".jp2", ".j2k", ".jpx", ".tga"),
)
# Names that systems and programs leave behind. Names that begin with a dot, such as `.git` or `._x.jpg`, count too.
_NO_DATA = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "lost+found", "system volume information"}


class Folder:
    """Image files in torchvision's layout `root/split/class/**/*.jpg`. Classes and files are sorted as in torchvision.

    Args:
      others: splits that must have the same classes, if they exist.
    """

    def __init__(self, root: Path, split: str, others: set[str]) -> None:
        self.splits = tuple(folder_splits(root))
        if split not in self.splits:
            raise DataError(unknown_name(f"split of folder:{root}", split, self.splits) + _advise_holdout(root))
        self._read(root, root / split, f"split {split!r}")
        existing = sorted((others & set(self.splits)) - {split})
        check_same_classes(str(root), {name: list_folders(root / name) for name in [split, *existing]})

    def _read(self, root: Path, folder: Path, what: str) -> None:
        self.class_names = tuple(list_folders(folder))
        left_out: Counter[str] = Counter()
        files = [image_files(folder / name, root, left_out) for name in self.class_names]
        if not files:
            raise DataError(
                f"{folder} holds no class folder; it must hold CLASS/*.jpg. Sort the images into folders"
                + _advise_holdout(root)
            )
        empty = [name for name, paths in zip(self.class_names, files, strict=True) if not paths]
        if empty:
            raise DataError(
                f"{len(empty)} class folders of {folder} hold no image: {', '.join(empty)}; each must hold at "
                f"least one file ending in {', '.join(IMAGE_SUFFIXES)}. Fill or remove them{endings(left_out)}"
            )
        if left_out:
            log.warning("of folder:%s, %s, files that are no images are not read%s", root, what, endings(left_out))
        self._paths = [path for paths in files for path in paths]
        self._labels = np.repeat(np.arange(len(files)), [len(paths) for paths in files])

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Example:
        path = self._paths[index]
        try:
            with open(path, "rb", buffering=0) as file:
                data = file.read()
        except OSError as error:
            raise ImageError(
                f"cannot read {path}: {error.strerror}; it was there when the folder was listed. Restore or remove it"
            ) from error
        return {"image": data, "label": int(self._labels[index]), "name": path}

    def labels(self) -> Int[np.ndarray, " N"]:
        return self._labels


class HeldOut(Folder):
    """A folder without splits, `root/class/**/*.jpg`. The same share of every class is always held out.

    The names of the files decide which are held out (SHA-256 of the path below `root`). So the split is the same on
    every machine, and new images do not move other images to another split. A class of two images or more has at least
    one in each split.
    """

    def __init__(self, root: Path, split: str, config: DataConfig) -> None:
        self.splits = (config.train_split, config.eval_split)
        if split not in self.splits:
            raise DataError(unknown_name(f"split of folder:{root} with data.holdout", split, self.splits))
        if config.train_split == config.eval_split:
            raise DataError(
                f"data.train_split and data.eval_split are both {split!r}; with data.holdout they must differ"
            )
        folder_splits(root)
        self._read(root, root, "")
        held_out = np.zeros(len(self._paths), bool)
        for label in range(len(self.class_names)):
            here = np.flatnonzero(self._labels == label)
            order = sorted(here, key=lambda i: _digest(os.path.relpath(self._paths[i], root)))
            count = min(max(round(config.holdout * len(here)), 1), len(here) - 1)
            held_out[order[:count]] = True
        chosen = np.flatnonzero(held_out == (split == config.eval_split))
        self._paths, self._labels = [self._paths[i] for i in chosen], self._labels[chosen]


def _digest(path: str) -> bytes:
    return hashlib.sha256(os.fsencode(path.replace(os.sep, "/"))).digest()


def holds_classes(root: Path) -> bool:
    """Whether a folder's folders hold images themselves: they are classes, not splits."""
    return any(is_image(name) for folder in list_folders(root) for name in os.listdir(root / folder))


def _advise_holdout(root: Path) -> str:
    if holds_classes(root):
        return f". The folders of {root} hold images: if they are classes and not splits, add --data.holdout 0.1"
    return ""


def folder_splits(root: Path, kind: str = "folder", ending: str = "jpg") -> list[str]:
    """The splits of a folder of images, or of another kind of files."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; it must hold SPLIT/CLASS/*.{ending}. Correct `{kind}:PATH`")
    return list_folders(root)


def is_data(name: str) -> bool:
    """Whether a file or folder belongs to the user, and was not left behind by a system or a program."""
    return not name.startswith(".") and name.lower() not in _NO_DATA


def is_image(name: str) -> bool:
    """Whether a file's ending is that of an image."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def list_folders(path: Path) -> list[str]:
    """The names of the folders in a folder, sorted, without those that systems leave behind."""
    try:
        return sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and is_data(entry.name))
    except OSError as error:
        raise _unreadable(error) from error


def image_files(folder: Path, root: Path, left_out: Counter[str]) -> list[str]:
    """The images under a folder, sorted as torchvision does. `left_out` counts the endings of the other files."""
    found = []
    for at, names in walk(folder, root):
        found.append((at, sorted(name for name in names if is_data(name) and is_image(name))))
        left_out.update(os.path.splitext(name)[1].lower() for name in names if is_data(name) and not is_image(name))
    return [os.path.join(at, name) for at, names in sorted(found) for name in names]


def walk(folder: Path, root: Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder from `folder` down and the names of its files.

    A link to a folder that holds the link, or that was read already, is not followed, so each file is there once.
    """
    seen = {os.path.realpath(path) for path in (root, *folder.parents)}
    for at, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        here = os.path.realpath(at)
        if here in seen:
            folders.clear()
            continue
        seen.add(here)
        # Links come last, in a fixed order: if two ways lead to a folder, every machine takes the same one.
        folders[:] = sorted(filter(is_data, folders), key=lambda name: (os.path.islink(os.path.join(at, name)), name))
        yield at, names


def endings(left_out: Counter[str]) -> str:
    """The commonest endings of files that are not read, in brackets; empty if there are none."""
    listed = ", ".join(
        f"{count} {ending or 'without an ending'}"
        for ending, count in sorted(left_out.items(), key=lambda item: (-item[1], item[0]))[:8]
    )
    return f" ({sum(left_out.values())} files: {listed})" if left_out else ""


def _refuse(error: OSError) -> None:
    raise _unreadable(error) from error  # without this, os.walk would silently leave the folder out


def _unreadable(error: OSError) -> DataError:
    return DataError(
        f"cannot list the folder {error.filename}: {error.strerror}; every folder of a data set must be readable. "
        "Change its permissions or remove it"
    )
