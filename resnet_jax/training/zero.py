"""Arrays of which each device holds a part, and their exchange: ZeRO-1 (Rajbhandari et al. 2019, arXiv:1910.02054).

A reduce-scatter adds up a gradient on the device that holds its part of the optimizer's state. An all-gather then gives
the updates to all devices. Together they send as many bytes as the all-reduce of the gradient that they replace. Not
every compiler joins them as it joins all-reduces, so the arrays are packed into one here.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, PyTree

from resnet_jax.runtime.mesh import AXIS
from resnet_jax.training.rules import OnWhole, Rule

SMALL = 2**20  # bytes


def spread(tree: PyTree, devices: int) -> PyTree[PartitionSpec]:
    """Splits each array along its largest dimension that `devices` divide. An array without one is whole on each
    device.
    """

    def split(leaf: Any) -> PartitionSpec:
        sizes = [0 if size % devices else size for size in leaf.shape]
        if not any(sizes):
            return PartitionSpec()
        return PartitionSpec(*[None] * sizes.index(max(sizes)), AXIS)

    return jax.tree.map(split, tree)


def mean_over_devices(tree: PyTree[Array], layout: PyTree[PartitionSpec]) -> PyTree[Array]:
    """Means of each device's arrays, laid out as `layout` says. For use under `shard_map`."""
    if lax.axis_size(AXIS) == 1:
        return tree  # packing would copy hundreds of arrays twice, and each copy takes time to compile

    def scatter(rows: Array) -> Array:
        return lax.psum_scatter(rows, AXIS, scatter_dimension=0) / len(rows)

    whole, parts, join = _pick_apart(tree, layout)
    return join(_mean(whole), _packed(parts, scatter, lax.axis_size(AXIS), 1) if parts else [])


def gather(
    tree: PyTree[Array], layout: PyTree[PartitionSpec], mesh: Mesh, then: Rule = lambda whole: whole
) -> PyTree[Array]:
    """Gives every device the whole of the arrays that are laid out as `layout` says, or what `then` computes of it."""

    def everywhere(tree: PyTree[Array]) -> PyTree[Array]:
        whole, parts, join = _pick_apart(tree, layout)
        collect = lambda row: lax.all_gather(row[0], AXIS)
        return then(join(whole, _packed(parts, collect, 1, mesh.size) if parts else []))

    return jax.shard_map(everywhere, mesh=mesh, in_specs=(layout,), out_specs=PartitionSpec(), check_vma=False)(tree)


def on_whole(mesh: Mesh) -> OnWhole:
    """Returns what makes a function of whole arrays one of arrays that `spread` has split over `mesh`. Each device
    computes all of it. XLA's partitioner would split each of its products, and exchange between them."""
    return lambda rule: lambda tree: gather(tree, spread(tree, mesh.size), mesh, rule)


def _mean(arrays: list[Array]) -> list[Array]:
    """Means over the devices. The small arrays, hundreds in a ResNet, are exchanged as one: XLA for TPUs joins only a
    limited number, and XLA for GPUs cuts a joint exchange into dozens."""
    small = [array for array in arrays if _is_small(array)]
    packed = jnp.concatenate([array.reshape(-1) for array in small])
    *large, packed = lax.pmean([*(array for array in arrays if not _is_small(array)), packed], AXIS)
    pieces = iter(jnp.split(packed, np.cumsum([array.size for array in small])[:-1]))
    rest = iter(large)
    return [
        next(pieces).reshape(array.shape).astype(array.dtype) if _is_small(array) else next(rest) for array in arrays
    ]


def _is_small(array: Array) -> bool:
    return array.ndim < 2 or array.nbytes < SMALL


def _packed(parts: list[Array], exchange: Callable[[Array], Array], rows: int, rows_after: int) -> list[Array]:
    """`exchange` of all arrays as one array. It has `rows` rows before the exchange and `rows_after` after it. The
    arrays are split along their first dimensions.
    """
    packed = exchange(jnp.concatenate([part.reshape(rows, -1) for part in parts], axis=1)).reshape(rows_after, -1)
    ends = np.cumsum([part.size // rows for part in parts])
    pieces = jnp.split(packed, ends[:-1], axis=1)
    return [piece.reshape(-1, *part.shape[1:]) for piece, part in zip(pieces, parts, strict=True)]


def _pick_apart(
    tree: PyTree[Array], layout: PyTree[PartitionSpec]
) -> tuple[list[Array], list[Array], Callable[[list[Array], list[Array]], PyTree[Array]]]:
    """The arrays that are whole in `layout`; those that are split, turned so that they are split along their first
    dimension; and the function that puts both back into the tree."""
    leaves, structure = jax.tree.flatten(tree)
    splits = [len(spec) - 1 for spec in jax.tree.leaves(layout)]  # the dimension along which it is split; -1: whole
    whole = [leaf for leaf, split in zip(leaves, splits, strict=True) if split < 0]
    parts = [jnp.moveaxis(leaf, split, 0) for leaf, split in zip(leaves, splits, strict=True) if split >= 0]

    def join(whole: list[Array], parts: list[Array]) -> PyTree[Array]:
        from_whole, from_parts = iter(whole), iter(parts)
        turned = [jnp.moveaxis(next(from_parts), 0, split) if split >= 0 else next(from_whole) for split in splits]
        return jax.tree.unflatten(structure, turned)

    return whole, parts, join
