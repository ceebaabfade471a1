"""Sources that lie in memory: arrays, NumPy's files, the embedded digits, and noise for benchmarks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from resnet_jax.config import DataConfig
from resnet_jax.data.sources.base import Example, check_labels
from resnet_jax.errors import DataError, unknown_name

DIGITS_SPLITS = ("train", "test", "all")
SYNTHETIC_LENGTHS = {"train": 1_281_167, "test": 50_000}  # ImageNet's
SYNTHETIC_IMAGES = 64  # different ones; more would only fill memory


class Arrays:
    """Images and labels in memory.

    Args:
      images: (N, H, W, C) or (N, H, W) bytes, with C = 1 or 3.
      labels: from 0 to the number of classes less one.
      where: what to call the data set in an error.

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

    The test split is every fifth scan of the list sorted by class: 1,437 for training and 360 for the test, a fifth of
    every class, and the same on every machine because no random generator is involved. Most writers occur in both, as
    they would in a random split.
    """
    from sklearn.datasets import load_digits  # takes a second to import

    if split not in DIGITS_SPLITS:
        raise DataError(unknown_name("split of digits", split, DIGITS_SPLITS))
    scans, labels = load_digits(return_X_y=True)
    in_test = np.zeros(len(labels), bool)
    in_test[np.argsort(labels, kind="stable")[::5]] = True
    chosen = {"train": ~in_test, "test": in_test, "all": np.ones_like(in_test)}[split]
    grey = np.round(scans[chosen] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return Arrays(grey, labels[chosen], tuple("0123456789"), splits=DIGITS_SPLITS, where="digits")


def npz_splits(path: Path) -> list[str]:
    """The splits of a file that `open_npz` reads."""
    if not path.is_file():
        raise DataError(f"there is no file {path}; `npz:PATH` must name one that numpy.savez wrote. Correct the path")
    with np.load(path, allow_pickle=False) as file:
        return sorted(key.removesuffix("_images") for key in file.files if key.endswith("_images"))


def open_npz(path: Path, split: str) -> Arrays:
    """A file that `numpy.savez` wrote, with `SPLIT_images`, `SPLIT_labels` and, if it likes, `class_names`.

    Without names, the classes are the numbers from 0 to the largest label in the file.
    """
    splits = npz_splits(path)
    if split not in splits:
        raise DataError(unknown_name(f"split of npz:{path} (arrays SPLIT_images, SPLIT_labels)", split, splits))
    with np.load(path, allow_pickle=False) as file:
        missing = [name for name in splits if f"{name}_labels" not in file.files]
        if missing:
            raise DataError(
                f"npz:{path} has no {', '.join(f'{name}_labels' for name in missing)}; each split must have images and "
                "labels. Add the labels, or remove the images"
            )
        if "class_names" in file.files:
            names = [str(name) for name in file["class_names"]]
        else:
            names = [str(i) for i in range(1 + max(int(file[f"{name}_labels"].max(initial=0)) for name in splits))]
        images, labels = file[f"{split}_images"], file[f"{split}_labels"]
    return Arrays(images, labels, names, splits=splits, where=f"npz:{path}, split {split!r}")


class Synthetic:
    """Noise of `eval_resize` pixels square in 1,000 classes: the same on every machine, and free to read.

    For benchmarks of everything but reading and decoding.
    """

    def __init__(self, config: DataConfig, split: str) -> None:
        if split not in SYNTHETIC_LENGTHS:
            raise DataError(unknown_name("split of synthetic", split, SYNTHETIC_LENGTHS))
        self.class_names = tuple(str(i) for i in range(1000))
        self.splits = tuple(SYNTHETIC_LENGTHS)
        self._length = SYNTHETIC_LENGTHS[split]
        shape = (SYNTHETIC_IMAGES, config.eval_resize, config.eval_resize, config.channels)
        self._images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self._length:
            raise IndexError(index)
        return {"image": self._images[index % SYNTHETIC_IMAGES], "label": index % len(self.class_names)}

    def labels(self) -> Int[np.ndarray, " N"]:
        return np.arange(self._length) % len(self.class_names)
