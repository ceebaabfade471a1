"""Data: sources by name, host transforms, batches, and augmentation on the device."""

from resnet_jax.data.batches import eval_batches, train_batches
from resnet_jax.data.device import augment, normalize
from resnet_jax.data.fingerprint import fingerprint
from resnet_jax.data.sources import Example, Source, load_source
from resnet_jax.data.transforms import decode_image, load_image, random_resized_crop, resize_and_center_crop

__all__ = [
    "Example",
    "Source",
    "augment",
    "decode_image",
    "eval_batches",
    "fingerprint",
    "load_image",
    "load_source",
    "normalize",
    "random_resized_crop",
    "resize_and_center_crop",
    "train_batches",
]
