"""Content digests: they show whether a checkpoint is read back as it was written.

Digests are computed from the arrays that are saved, not from the files. So they hold whatever the storage format does.
They find damage, not forgery: someone who can write the arrays can write the digests too.
"""

import hashlib
import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree


def describe(tree: PyTree) -> dict[str, str]:
    """`params/conv1/kernel` -> `float32 (7, 7, 3, 64)`, for arrays and for Orbax's descriptions of arrays alike."""
    return {name: f"{leaf.dtype} {leaf.shape}" for name, leaf in by_name(tree).items()}


def digest_arrays(tree: PyTree) -> dict[str, str]:
    """`params/conv1/kernel` -> SHA-256 of its bytes, type and shape. All processes must call it together.

    It waits for the arrays, and takes about a second for a gigabyte.
    """
    return {name: _digest(_host(leaf), f"{leaf.dtype} {leaf.shape}") for name, leaf in by_name(tree).items()}


def digest_json(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the layout of its file."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def by_name(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree in its order, `params/conv1/kernel` and so on."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _host(array: jax.Array) -> np.ndarray:
    if not (array.is_fully_addressable or array.is_fully_replicated):  # other processes hold parts of the array
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.ascontiguousarray(array)


def _digest(array: np.ndarray, kind: str) -> str:
    digest = hashlib.sha256(kind.encode())
    digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
