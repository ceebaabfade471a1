"""Sources that lie in memory: arrays, NumPy's files, the embedded digits, and noise for benchmarks."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from numpy.lib.npyio import NpzFile

from resnet_jax.config import DataConfig
from resnet_jax.data.sources.base import Example, check_labels
from resnet_jax.errors import DataError, unknown_name

DIGITS_SPLITS = ("train", "test", "all")
SYNTHETIC_LENGTHS = {"train": 1_281_167, "test": 50_000}  # ImageNet's
SYNTHETIC_IMAGES = 64  # different images; more would only fill memory


class Arrays:
    """Images and labels in memory.

    Args:
      images: (N, H, W, C) or (N, H, W) bytes, with C = 1 or 3.
      labels: from 0 to the number of classes - 1.
      where: the name of the data set in an error.

    Raises:
      DataError: arrays of another kind, of unequal length, or labels without a class.
    """

    def __init__(
        self,
        images: UInt8[np.ndarray, "N H W C"] | UInt8[np.ndarray, "N H W"],
        labels: Int[np.ndarray, " N"],
        class_names: Sequence[str],
        *,
        splits: Sequence[str] = ("train",),
        where: str = "the arrays",
    ) -> None:
        if images.ndim == 3:
            images = images[..., None]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            raise DataError(
                f"the images of {where} are a {images.dtype} array of shape {images.shape}; they must be uint8 "
                "(N, H, W, 1) or (N, H, W, 3). Convert them, dropping an alpha channel if there is one"
            )
        if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (len(images),):
            raise DataError(
                f"the labels of {where} are a {labels.dtype} array of shape {labels.shape}; they must be integers, one "
                f"for each of the {len(images)} images. Correct them"
            )
        self.class_names = tuple(class_names)
        self.splits = tuple(splits)
        check_labels(labels, self.class_names, where)
        self._images, self._labels = images, labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Example:
        return {"image": self._images[index], "label": int(self._labels[index])}

    def labels(self) -> Int[np.ndarray, " N"]:
        return self._labels


def open_digits(config: DataConfig, split: str) -> Arrays:
    """The 1,797 handwritten digits of scikit-learn: 8x8 scans of 16 levels, in classes of nearly equal size.

    The test split is every fifth scan of the list sorted by class: 1,437 scans for training and 360 for the test, with
    a fifth of every class. No random generator is involved, so it is the same on every machine. Most writers occur in
    both splits, as they would in a random split.
    """
    scans, labels = read_digits(split)
    return Arrays(scans, labels, tuple("0123456789"), splits=DIGITS_SPLITS, where="digits")


def read_digits(split: str) -> tuple[UInt8[np.ndarray, "N 8 8"], Int[np.ndarray, " N"]]:
    """The scans of `open_digits`, 0 for paper and 255 for the darkest ink, and the digit of each.

    Raises:
      DataError: no such split.
    """
    from sklearn.datasets import load_digits  # takes a second to import

    if split not in DIGITS_SPLITS:
        raise DataError(unknown_name("split of digits", split, DIGITS_SPLITS))
    scans, labels = load_digits(return_X_y=True)
    in_test = np.zeros(len(labels), bool)
    in_test[np.argsort(labels, kind="stable")[::5]] = True
    chosen = {"train": ~in_test, "test": in_test, "all": np.ones_like(in_test)}[split]
    return np.round(scans[chosen] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8), labels[chosen]


def npz_splits(path: Path) -> list[str]:
    """The splits of a file that `open_npz` reads."""
    with _open_npz(path) as file:
        return _splits(file)


def open_npz(path: Path, split: str) -> Arrays:
    """A file that `numpy.savez` wrote, with `SPLIT_images`, `SPLIT_labels` and optionally `class_names`.

    Without names, the classes are the numbers from 0 to the largest label in the file.

    Raises:
      DataError: no such file or split, a file that is damaged or holds other things than numbers, or as `Arrays`.
    """
    with _open_npz(path) as file:
        splits = _splits(file)
        if split not in splits:
            raise DataError(unknown_name(f"split of npz:{path} (arrays SPLIT_images, SPLIT_labels)", split, splits))
        missing = [name for name in splits if f"{name}_labels" not in file.files]
        if missing:
            raise DataError(
                f"npz:{path} has no {', '.join(f'{name}_labels' for name in missing)}; each split must have images and "
                "labels. Add the labels, or remove the images"
            )
        labels = {name: _labels(file[f"{name}_labels"], f"npz:{path}, split {name!r}") for name in splits}
        if "class_names" in file.files:
            names = [
                x.decode(errors="replace") if isinstance(x, bytes) else str(x) for x in file["class_names"].ravel()
            ]
        else:
            names = [str(i) for i in range(1 + max(int(each.max(initial=0)) for each in labels.values()))]
        images = file[f"{split}_images"]
    return Arrays(images, labels[split], names, splits=splits, where=f"npz:{path}, split {split!r}")


@contextlib.contextmanager
def _open_npz(path: Path) -> Iterator[Any]:
    """NumPy's view of a file, whose arrays are read when they are asked for. Every failure becomes a DataError."""
    if not path.is_file():
        raise DataError(f"there is no file {path}; `npz:PATH` must name one that numpy.savez wrote. Correct the path")
    try:
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, NpzFile):
                raise ValueError("it holds a single array")
            yield file
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise errors that have no class in common
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "allow_pickle" in reason or "Object arrays" in reason:
            reason = "it holds Python objects, which may run code when they are read"
        raise DataError(
            f"cannot read npz:{path}: {reason}; it must be a whole file of numpy.savez, with arrays of numbers. Write "
            "it again"
        ) from error


def _splits(file: Any) -> list[str]:
    return sorted(key.removesuffix("_images") for key in file.files if key.endswith("_images"))


def _labels(labels: np.ndarray, where: str) -> Int[np.ndarray, " N"]:
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"the labels of {where} are a {labels.dtype} array of shape {labels.shape}; they must be integers, one for "
            "each image. Number the classes from 0, and give their names as class_names"
        )
    return labels


class Synthetic:
    """Noise of `eval_resize` pixels square in 1,000 classes. It is the same on every machine, and costs nothing to
    read.

    It serves benchmarks of everything except reading and decoding.
    """

    def __init__(self, config: DataConfig, split: str) -> None:
        if split not in SYNTHETIC_LENGTHS:
            raise DataError(unknown_name("split of synthetic", split, SYNTHETIC_LENGTHS))
        self.class_names = tuple(str(i) for i in range(1000))
        self.splits = tuple(SYNTHETIC_LENGTHS)
        self._length = SYNTHETIC_LENGTHS[split]
        shape = (SYNTHETIC_IMAGES, config.eval_side, config.eval_side, config.channels)
        self._images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self._length:
            raise IndexError(index)
        return {"image": self._images[index % SYNTHETIC_IMAGES], "label": index % len(self.class_names)}

    def labels(self) -> Int[np.ndarray, " N"]:
        return np.arange(self._length) % len(self.class_names)
