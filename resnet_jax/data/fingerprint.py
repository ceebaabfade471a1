"""A few characters that identify a data set, to see whether two runs had the same one."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from resnet_jax.data.sources import Source, leaves_of
from resnet_jax.errors import ImageError

SAMPLES = 16


def fingerprint(source: Source) -> str:
    """SHA-256 of the class names, the length, and the arrays and labels of 16 examples spread over the source.

    It tells other data, another order or another decoder. It does not find one changed image among many.
    """
    digest = hashlib.sha256(json.dumps([list(source.class_names), len(source)]).encode())
    leaves = leaves_of(source)
    for index in np.unique(np.linspace(0, len(source) - 1, SAMPLES).astype(int)) if len(source) else ():
        try:
            example = source[int(index)]
        except ImageError:  # training leaves such an example out
            continue
        label = int(example["label"]) if "label" in leaves else None
        for name in leaves:
            if name != "label":
                array = _array(example[name])  # type: ignore[literal-required]
                digest.update(f"{array.dtype} {array.shape} {label}".encode())
                digest.update(array.tobytes())
    return digest.hexdigest()


def _array(leaf: Any) -> np.ndarray:
    """A leaf as an array; of a video its times and its first frame, of objects all their pixels."""
    if isinstance(leaf, Sequence) and not isinstance(leaf, bytes):
        return np.concatenate([bitmap.pixels.ravel() for bitmap in leaf]) if leaf else np.zeros(0)
    if not hasattr(leaf, "times"):
        return np.ascontiguousarray(leaf)
    try:
        return np.concatenate([leaf.times(), leaf.read(np.zeros(1, int)).ravel()])
    except ImageError:  # training leaves such a video out
        return np.zeros(0)
