"""Data sets by name, as random-access sources of decoded images.

A source is anything with `class_names`, a length and `source[index] -> {"image", "label"}`; batches need no more of it.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypedDict

import numpy as np
from jaxtyping import UInt8

from resnet_jax.config import DataConfig
from resnet_jax.data.transforms import decode_image
from resnet_jax.errors import DataError, unknown_name

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")


class Example(TypedDict):
    """A decoded image and the index of its class."""

    image: UInt8[np.ndarray, "H W C"]
    label: int


class Source(Protocol):
    """A finite data set whose examples are read by index, from several threads at once."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the labels."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


def load_source(config: DataConfig, split: str) -> Source:
    """Opens a split of the data set that `config.name` names. Images are decoded when they are asked for.

    Raises:
      DataError: an unknown name or split, data that are missing or in a form that cannot be read, unequal classes.
    """
    kind, _, rest = config.name.partition(":")
    source: Source
    if config.name == "digits":
        source = Digits(split, config.channels)
    elif kind == "tfds" and rest:
        source = Tfds(rest, split, config.directory, config.channels)
    elif kind == "folder" and rest:
        source = Folder(Path(rest).expanduser(), split, config.channels)
        for other in {config.train_split, config.eval_split} - {split}:
            source.check_same_classes(other)
    else:
        raise DataError(unknown_name("data set", config.name, ["digits", "tfds:NAME", "folder:PATH"]))
    return source


class Digits:
    """The 1,797 handwritten digits of scikit-learn: 8x8 scans of 16 levels, in classes of nearly equal size.

    The test split is every fifth scan of the list sorted by class: 1,437 for training and 360 for the test, a fifth of
    every class, and the same on every machine because no random generator is involved. Most writers occur in both, as
    they would in a random split.
    """

    SPLITS = ("train", "test", "all")

    def __init__(self, split: str, channels: int) -> None:
        from sklearn.datasets import load_digits  # takes a second to import

        if split not in self.SPLITS:
            raise DataError(unknown_name("split of digits", split, self.SPLITS))
        scans, labels = load_digits(return_X_y=True)
        in_test = np.zeros(len(labels), bool)
        in_test[np.argsort(labels, kind="stable")[::5]] = True
        chosen = {"train": ~in_test, "test": in_test, "all": np.ones_like(in_test)}[split]
        grey = np.round(scans[chosen] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
        self._images = np.repeat(grey, channels, axis=-1)
        self._labels = labels[chosen]
        self.class_names = tuple("0123456789")

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Example:
        return {"image": self._images[index], "label": int(self._labels[index])}


class Folder:
    """Image files in torchvision's layout `root/split/class/**/*.jpg`; classes and files are sorted, as there."""

    def __init__(self, root: Path, split: str, channels: int) -> None:
        self._root, self._split, self._channels = root, split, channels
        if not root.is_dir():
            raise DataError(f"{root} is not a folder; it must hold SPLIT/CLASS/*.jpg. Correct `folder:PATH`")
        if not (root / split).is_dir():
            raise DataError(unknown_name(f"split of folder:{root}", split, _folders(root)))
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
        self._paths = [path for paths in files for path in paths]
        self._labels = np.repeat(np.arange(len(files)), [len(paths) for paths in files])

    def check_same_classes(self, split: str) -> None:
        """Raises a DataError where `split` exists and has other classes: the same label would mean two things."""
        if not (self._root / split).is_dir():
            return
        here, there = set(self.class_names), set(_folders(self._root / split))
        if here != there:
            raise DataError(
                f"the classes of {self._root} differ: only in {self._split!r}: {sorted(here - there) or 'none'}, "
                f"only in {split!r}: {sorted(there - here) or 'none'}; all splits must have the same class folders. "
                "Rename or remove them"
            )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Example:
        return {"image": decode_image(self._paths[index], self._channels), "label": int(self._labels[index])}


class Tfds:
    """A TensorFlow Datasets data set prepared as array_record. Reading it needs no TensorFlow.

    Both kinds are found: those whose code comes with TFDS, and those of which only the prepared files are there.
    """

    def __init__(self, name: str, split: str, directory: str | None, channels: int) -> None:
        import tensorflow_datasets as tfds  # takes a second to import

        self._where, self._channels = f"tfds:{name}, split {split!r}", channels
        folder = directory or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
        remedy = f"`tfds build {name} --file_format=array_record --data_dir={folder}`, once (building needs TensorFlow)"
        try:
            builder = tfds.builder(name, data_dir=directory)
        except (ValueError, AssertionError) as error:  # an unknown name or config; an unknown version
            raise DataError(
                f"tfds:{name} is not known to TFDS and not prepared in {folder} ({str(error).splitlines()[0]}); "
                f"it must be one of the two. Correct the name or data.directory, or prepare it: {remedy}"
            ) from error
        if not builder.is_prepared():
            raise DataError(
                f"tfds:{name} is not prepared in {folder}; it must be before it is read. Prepare it: {remedy}"
            )

        features = builder.info.features
        if not {"image", "label"} <= set(features) or not isinstance(features["label"], tfds.features.ClassLabel):
            found = ", ".join(f"{key} ({type(value).__name__})" for key, value in sorted(features.items()))
            raise DataError(
                f"tfds:{name} is no image classification data set: it must have an `image` and a `label` that is a "
                f"ClassLabel, but has {found}. Choose another one"
            )
        self.class_names: tuple[str, ...] = tuple(features["label"].names)
        # Every image feature stays encoded: `image` is decoded here, and masks and the like are not wanted.
        encoded = {
            key: tfds.decode.SkipDecoding() for key, value in features.items() if isinstance(value, tfds.features.Image)
        }
        try:
            self._records: Sequence[dict[str, Any]] = builder.as_data_source(split, decoders=encoded)
        except NotImplementedError as error:
            raise DataError(
                f"tfds:{name} in {folder} is prepared as {builder.info.file_format.value}, which cannot be read by "
                f"index; it must be array_record. Delete it and prepare it again: {remedy}"
            ) from error
        except ValueError as error:  # a wrong name or a wrong slice such as `train[:200%]`
            raise DataError(
                f"tfds:{name} has no split {split!r} ({str(error).splitlines()[0]}); it must be one of "
                f"{', '.join(builder.info.splits)}, or a slice of one such as `train[:90%]`. Correct the split"
            ) from error

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        record = self._records[index]
        label = int(record["label"])
        if not 0 <= label < len(self.class_names):
            raise DataError(
                f"example {index} of {self._where} has label {label}; it must be in 0..{len(self.class_names) - 1}. "
                "TFDS marks unlabelled splits with -1: choose a labelled one"
            )
        image = decode_image(record["image"], self._channels, name=f"example {index} of {self._where}")
        return {"image": image, "label": label}


def _folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(path) if entry.is_dir())


def _image_files(folder: Path) -> list[str]:
    walk = sorted(os.walk(folder, followlinks=True))
    return [os.path.join(at, name) for at, _, names in walk for name in sorted(names) if _is_image(name)]


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)
