"""Data sets as random-access sources: one small interface, a file for each kind."""

from resnet_jax.data.sources.arrays import Arrays
from resnet_jax.data.sources.base import Example, Source, leaves_of, missing_leaves, read_objects, read_size
from resnet_jax.data.sources.compared import Compared
from resnet_jax.data.sources.load import list_splits, load_source
from resnet_jax.data.sources.records import write_records
from resnet_jax.data.sources.subset import Subset

__all__ = [
    "Arrays",
    "Compared",
    "Example",
    "Source",
    "Subset",
    "leaves_of",
    "list_splits",
    "load_source",
    "missing_leaves",
    "read_objects",
    "read_size",
    "write_records",
]
