"""Parameters of which each device holds some rows, such as the million class centres of a face network.

A loss gets the device's own rows. If it needs something of the other rows, it asks for it by collectives over
`mesh.AXIS`. The gradient of the device's rows is then complete, so it is not exchanged.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, PyTree

from resnet_jax.errors import ConfigError
from resnet_jax.runtime.mesh import AXIS
from resnet_jax.training.frozen import belonging_to


def split_paths(params: PyTree[Any], patterns: Sequence[str], devices: int) -> frozenset[str]:
    """The paths of the parameters in which one of the regular expressions is found.

    Raises:
      ConfigError: the devices cannot share the rows of a parameter equally, or a pattern is found nowhere.
    """
    leaves = {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in leaves):
            raise ConfigError(
                f"the task splits {pattern!r} over the devices, and no parameter has it in its path; the first are "
                f"{', '.join(list(leaves)[:3])}. Correct Task.split"
            )
    found = {name: leaf for name, leaf in leaves.items() if any(re.search(pattern, name) for pattern in patterns)}
    for name, leaf in found.items():
        if not leaf.ndim or leaf.shape[0] % devices:
            raise ConfigError(
                f"the task splits {name} {leaf.shape} over the devices, and {devices} of them cannot share its rows "
                "equally; fill it up to a multiple, or use another number of devices"
            )
    return frozenset(found)


def is_whole(tree: PyTree[Any], paths: frozenset[str]) -> PyTree[bool]:
    """For each array in a tree, such as a state, whether every device holds all of it. A split parameter is not whole,
    nor is an array that an optimizer or an average keeps for it.
    """
    return jax.tree.map(lambda split: not split, belonging_to(tree, paths))


def rows_of_devices(tree: PyTree[Any], paths: frozenset[str]) -> PyTree[PartitionSpec]:
    """How each array of a tree lies: split along its first dimension, or whole on every device."""
    return jax.tree.map(lambda whole: PartitionSpec() if whole else PartitionSpec(AXIS), is_whole(tree, paths))


def mean_of_rows(grads: PyTree[Array]) -> PyTree[Array]:
    """The gradients of the mean of all devices' losses, from those of their sum. For use under `shard_map`."""
    return jax.tree.map(lambda grad: grad / jax.lax.axis_size(AXIS), grads)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
