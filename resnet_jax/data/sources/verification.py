"""insightface's sets for verification: a pickle of encoded images, and of truths about their pairs.

`recognition/arcface_torch/eval/verification.py` loads them by `bins, issame_list = pickle.load(file)`. Here they are
read without running anything, see `inert_pickle`.
"""

from collections.abc import Sequence
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import NoReturn

import numpy as np
from jaxtyping import Int

from resnet_jax.data.sources.compared import Compared
from resnet_jax.data.sources.folder import is_data
from resnet_jax.data.sources.inert_pickle import PickleError, read_pickle
from resnet_jax.data.sources.inert_values import ALLOWED, Data, bytes_of, decoded, truths_of
from resnet_jax.errors import DataError, ImageError, unknown_name


def verification_splits(path: Path) -> dict[str, Path]:
    """The files `SPLIT.bin` of a folder, or the file itself, by the name of the split.

    Raises:
      DataError: no such file or folder, or no such file in the folder.
    """
    if path.is_file():
        return {path.stem: path}
    found = bins_of(path) if path.is_dir() else {}
    if not found:
        raise DataError(
            f"{path} is {'a folder without a file SPLIT.bin' if path.is_dir() else 'no file or folder'}; it must be a "
            "file such as lfw.bin, or a folder of such files. Correct `verification:PATH`"
        )
    return found


def bins_of(folder: Path) -> dict[str, Path]:
    """The files `SPLIT.bin` of a folder by the name of the split, sorted."""
    return {path.stem: path for path in sorted(folder.glob("*.bin")) if is_data(path.name) and path.is_file()}


def open_verification(path: Path, split: str) -> "Verification":
    """A split of a file or a folder.

    Raises:
      DataError: no such split, or as `Verification`.
    """
    files = verification_splits(path)
    if split not in files:
        raise DataError(unknown_name(f"split of verification:{path} (files SPLIT.bin)", split, files))
    return Verification(files[split], tuple(files))


class Verification(Compared):
    """One file. Its images are read from it when they are asked for.

    Raises:
      DataError: a file that is no such pickle, that names what it may not, or with another number of images than two
        for each pair.
    """

    def __init__(self, path: Path, splits: Sequence[str]) -> None:
        self._path = path
        try:
            with path.open("rb") as file:
                data = mmap(file.fileno(), 0, access=ACCESS_READ) if path.stat().st_size else b""
            self._places, same = _read(data)
        except OSError as error:
            _refuse(path, f"{error.strerror}", error)
        except PickleError as error:
            _refuse(path, f"{error}", error)
        if not same or len(self._places) != 2 * len(same):
            raise DataError(
                f"{path} holds {len(self._places):,} images, and {len(same):,} truths about pairs; there must be at "
                "least one truth, and two images for each. Fetch the file again"
            )
        super().__init__(np.array(same), splits, f"verification:{path}")

    def read(self, index: int) -> tuple[bytes, str]:
        start, stop, as_text = self._places[index].tolist()
        name = f"image {index} of {self._path}"
        try:
            with self._path.open("rb", buffering=0) as file:
                file.seek(start)
                return decoded(file.read(stop - start), bool(as_text)), name
        except (OSError, PickleError) as error:
            raise ImageError(f"cannot read {name}: {error}. Fetch the file again") from error


def _read(data: Data) -> tuple[Int[np.ndarray, "N 3"], list[bool]]:
    """Where the bytes of each image begin and end, and whether they are text; and the truths about the pairs."""
    whole = read_pickle(data, ALLOWED)
    if not isinstance(whole, (tuple, list)) or len(whole) != 2 or not isinstance(whole[0], (tuple, list)):
        raise PickleError("it holds something else than images and truths about pairs")
    places = np.empty((len(whole[0]), 3), np.int64)
    for index, image in enumerate(whole[0]):
        place = bytes_of(image, data)
        if place is None:
            raise PickleError(f"its image {index} is not bytes")
        places[index] = place.start, place.stop, place.as_text
    same = truths_of(whole[1], data)
    if same is None:
        raise PickleError("its truths about pairs are no list of booleans")
    return places, same


def _refuse(path: Path, reason: str, error: Exception) -> NoReturn:
    raise DataError(
        f"cannot read {path}: {reason}. It must be the pickle of a list of encoded images and a list of booleans, "
        "pickle.dump((images, same), file, protocol=2), and nothing of it was run. Fetch it from where you trust"
    ) from error
