"""TensorFlow Datasets, read without TensorFlow."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from resnet_jax.data.sources.base import Example
from resnet_jax.data.sources.records import count_records
from resnet_jax.errors import DataError, ImageError


def open_builder(name: str, directory: str | None) -> Any:
    """The builder of a prepared data set. TFDS may have code for the data set, or there are only its prepared files.

    Raises:
      DataError: there is neither code nor files.
    """
    import tensorflow_datasets as tfds  # takes a second to import

    folder, remedy = tfds_folder(directory), _remedy(name, directory)
    if "[" in folder or "]" in folder:
        raise DataError(
            f"TFDS reads the brackets of {folder} as a pattern and finds nothing there; its name must have none. "
            "Rename it, or link to it under another name"
        )
    try:
        builder = tfds.builder(name, data_dir=directory)
    except (ValueError, AssertionError) as error:  # an unknown name or config; an unknown version
        raise DataError(
            f"tfds:{name} is not known to TFDS and not prepared in {folder} ({str(error).splitlines()[0]}); "
            f"it must be one of the two. Correct the name or data.directory, or prepare it: {remedy}"
        ) from error
    if not builder.is_prepared():
        raise DataError(f"tfds:{name} is not prepared in {folder}; it must be before it is read. Prepare it: {remedy}")
    return builder


class Tfds:
    """A TensorFlow Datasets data set prepared as array_record. Reading it needs no TensorFlow."""

    def __init__(self, name: str, split: str, directory: str | None) -> None:
        import tensorflow_datasets as tfds

        self._where = f"tfds:{name}, split {split!r}"
        builder = open_builder(name, directory)
        features = builder.info.features
        if not {"image", "label"} <= set(features) or not isinstance(features["label"], tfds.features.ClassLabel):
            found = ", ".join(f"{key} ({type(value).__name__})" for key, value in sorted(features.items()))
            raise DataError(
                f"tfds:{name} is no image classification data set: it must have an `image` and a `label` that is a "
                f"ClassLabel, but has {found}. Choose another one, or tfds_masks:{name} for masks"
            )
        self.class_names: tuple[str, ...] = tuple(features["label"].names)
        self.splits: tuple[str, ...] = tuple(builder.info.splits)
        self._records = TfdsRecords(builder, name, split, directory)

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
        return {"image": record["image"], "label": label, "name": f"example {index} of {self._where}"}

    def labels(self) -> Int[np.ndarray, " N"]:
        return np.array([self._records[i]["label"] for i in range(len(self))])


class TfdsRecords:
    """The examples of a split as TFDS gives them. Images stay encoded.

    Raises:
      DataError: no such split, files in another format, or files that are missing or not whole.
    """

    def __init__(self, builder: Any, name: str, split: str, directory: str | None) -> None:
        import tensorflow_datasets as tfds

        self._where = f"tfds:{name}, split {split!r}"
        # Every image feature stays encoded: images are decoded later, and not all of them are needed.
        encoded = {
            key: tfds.decode.SkipDecoding()
            for key, value in builder.info.features.items()
            if isinstance(value, tfds.features.Image)
        }
        try:
            self._records: Sequence[dict[str, Any]] = builder.as_data_source(split, decoders=encoded)
        except NotImplementedError as error:
            raise DataError(
                f"tfds:{name} in {tfds_folder(directory)} is prepared as {builder.info.file_format.value}, "
                "which cannot be read by index; it must be array_record. Delete it and prepare it again: "
                f"{_remedy(name, directory)}"
            ) from error
        except ValueError as error:  # a wrong name or a wrong slice such as `train[:200%]`
            raise DataError(
                f"tfds:{name} has no split {split!r} ({str(error).splitlines()[0]}); it must be one of "
                f"{', '.join(builder.info.splits)}, or a slice of one such as `train[:90%]`. Correct the split"
            ) from error

        self._check_files(builder.info.splits[split].file_instructions)

    def _check_files(self, files: Sequence[Any]) -> None:
        """Raises a DataError where a file is missing or does not hold as many examples as the data set says."""
        for file in files:  # those in an object store are not checked
            found = count_records(file.filename) if os.path.exists(file.filename) else 0
            if found != file.examples_in_shard and "://" not in str(file.filename):
                raise DataError(
                    f"{file.filename} holds {found} examples, but {self._where} promises {file.examples_in_shard}; "
                    "every file must be there, and whole. Copy it again, or delete the data set and prepare it again"
                )

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises an ImageError where a file is damaged."""
        try:
            return self._records[index]
        except RuntimeError as error:
            raise ImageError(
                f"cannot read example {index} of {self._where}: {str(error).splitlines()[0]}. Copy the file again"
            ) from error


def build(name: str, directory: str | None, manual_dir: Path | None, file_format: str = "array_record") -> str:
    """Prepares a data set that TFDS has the code for, and returns its folder. Needs TensorFlow, the extra `tfds`.

    Raises:
      DataError: no TensorFlow, a name that TFDS does not know, or files that must be fetched by hand first.
    """
    import tensorflow_datasets as tfds

    if find_spec("tensorflow") is None:
        raise DataError(
            "building a TFDS data set needs TensorFlow, which is not installed; reading it does not. Install it, "
            'perhaps in an environment of its own: pip install -e ".[tfds]"'
        )
    try:
        builder = tfds.builder(name, data_dir=directory, file_format=file_format)
    except ValueError as error:
        raise DataError(
            f"TFDS knows no data set {name!r} ({str(error).splitlines()[0]}). Correct the name; to rewrite images that "
            "you have, add --short-side and --out"
        ) from error
    try:
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(manual_dir=manual_dir and str(manual_dir))
        )
    except (AssertionError, OSError) as error:  # TFDS asserts that files that must be fetched by hand are there
        raise DataError(f"cannot prepare {name}: {error}. Fetch what it asks for and give --manual-dir") from error
    return str(builder.data_path)


def tfds_folder(directory: str | None) -> str:
    """The folder of TFDS's data: `directory`, or else TFDS's default."""
    return directory or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")


def _remedy(name: str, directory: str | None) -> str:
    command = f"python -m resnet_jax data prepare {name} --directory {tfds_folder(directory)}"
    return f"`{command}`, once (building needs TensorFlow)"
