"""Image files in torchvision's layout."""

import os
from pathlib import Path

import numpy as np
from jaxtyping import Int

from resnet_jax.data.sources.base import Example, check_same_classes
from resnet_jax.errors import DataError, ImageError, unknown_name

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")


class Folder:
    """Image files in torchvision's layout `root/split/class/**/*.jpg`; classes and files are sorted, as there.

    Args:
      others: splits that, where they exist, must have the same classes.
    """

    def __init__(self, root: Path, split: str, others: set[str]) -> None:
        self.splits = tuple(folder_splits(root))
        if split not in self.splits:
            raise DataError(unknown_name(f"split of folder:{root}", split, self.splits))
        self.class_names = tuple(_folders(root / split))
        files = [_image_files(root / split / name) for name in self.class_names]
        if not files:
            raise DataError(
                f"{root / split} holds no class folder; it must hold CLASS/*.jpg. Sort the images into folders"
            )
        empty = [name for name, paths in zip(self.class_names, files, strict=True) if not paths]
        if empty:
            raise DataError(
                f"{len(empty)} class folders of {root / split} hold no image: {', '.join(empty)}; each must hold at "
                f"least one file ending in {', '.join(IMAGE_SUFFIXES)}. Fill or remove them"
            )
        existing = sorted((others & set(self.splits)) - {split})
        check_same_classes(str(root), {name: _folders(root / name) for name in [split, *existing]})
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


def folder_splits(root: Path) -> list[str]:
    """The splits of a folder of images."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; it must hold SPLIT/CLASS/*.jpg. Correct `folder:PATH`")
    return _folders(root)


def _folders(path: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
    except OSError as error:
        raise _unreadable(error) from error


def _image_files(folder: Path) -> list[str]:
    walk = sorted(os.walk(folder, followlinks=True, onerror=_refuse))
    return [os.path.join(at, name) for at, _, names in walk for name in sorted(names) if _is_image(name)]


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _refuse(error: OSError) -> None:
    raise _unreadable(error) from error  # os.walk would leave the folder out in silence


def _unreadable(error: OSError) -> DataError:
    return DataError(
        f"cannot list the folder {error.filename}: {error.strerror}; every folder of a data set must be readable. "
        "Change its permissions or remove it"
    )
