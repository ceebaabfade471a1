"""Some examples of a source, as a source."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from resnet_jax.data.boxes import Objects
from resnet_jax.data.sources.base import Example, Source, leaves_of, read_objects, read_size


class Subset:
    """The examples of `source` with these indices, in this order."""

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        self._source, self._indices = source, indices
        self.class_names, self.splits, self.leaves = source.class_names, source.splits, leaves_of(source)
        self.places = getattr(source, "places", None)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Example:
        return self._source[self._indices[index]]

    def labels(self) -> Int[np.ndarray, " N"]:
        return self._source.labels()[np.asarray(self._indices, int)]

    def objects(self, index: int) -> Objects:
        """The objects of an image. Raises `ImageError`."""
        return read_objects(self._source, self._indices[index])

    def image_size(self, index: int, *, exif: bool = False) -> tuple[int, int]:
        """Height and width of an image. Raises `ImageError`."""
        return read_size(self._source, self._indices[index], exif=exif)
