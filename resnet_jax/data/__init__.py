"""Data: sources by name, host transforms, batches, and augmentation on the device."""

from resnet_jax.data.batches import eval_batches, train_batches
from resnet_jax.data.broken import found_by_any_host
from resnet_jax.data.decode import decode_image
from resnet_jax.data.device import augment, normalize
from resnet_jax.data.fingerprint import fingerprint
from resnet_jax.data.sources import (
    Arrays,
    Example,
    Source,
    Subset,
    leaves_of,
    list_splits,
    load_source,
    missing_leaves,
    read_size,
    write_records,
)
from resnet_jax.data.transforms import load_image, random_resized_crop, resize_and_center_crop

__all__ = [
    "Arrays",
    "Example",
    "Source",
    "Subset",
    "augment",
    "decode_image",
    "eval_batches",
    "fingerprint",
    "found_by_any_host",
    "leaves_of",
    "list_splits",
    "load_image",
    "load_source",
    "missing_leaves",
    "normalize",
    "random_resized_crop",
    "read_size",
    "resize_and_center_crop",
    "train_batches",
    "write_records",
]
