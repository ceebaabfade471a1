"""Pairs of images to compare: examples 2i and 2i + 1 are pair i."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from resnet_jax.data.sources.base import Example
from resnet_jax.errors import DataError


class Compared:
    """Base of the sources whose examples have the leaves `image` and `same`: whether both of a pair show one identity.

    Args:
      same: of each pair.
      where: the name of the data set in an error.
    """

    leaves = ("image", "same")
    class_names = ("different", "same")

    def __init__(self, same: Bool[np.ndarray, " P"], splits: Sequence[str], where: str) -> None:
        self.splits = tuple(splits)
        self.same, self.where = same, where

    def __len__(self) -> int:
        return 2 * len(self.same)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        data, name = self.read(index)
        return {"image": data, "same": bool(self.same[index // 2]), "name": name}

    def read(self, index: int) -> tuple[bytes, str]:
        """The bytes of an image file, and its name. Raises `ImageError`."""
        raise NotImplementedError

    def labels(self) -> Int[np.ndarray, " N"]:
        """Raises a DataError: of two images it is known whether they show one identity, and not which."""
        raise DataError(
            f"an image of {self.where} has no label, as only of pairs it is known whether they show one identity; its "
            "leaves are image and same. Use it for evaluation, and train on a data set with labels, such as folder:PATH"
        )
