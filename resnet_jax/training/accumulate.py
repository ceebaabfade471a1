"""Computes a batch in parts: each device its own share, and on a device one part after the other."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, PyTree

from resnet_jax.models.convolution import inside_a_loop
from resnet_jax.runtime.mesh import AXIS
from resnet_jax.training.split import mean_of_rows
from resnet_jax.training.zero import mean_over_devices

Batch = dict[str, Array]
MeanOf = Callable[[PyTree[Array], Batch], dict[str, Any]]
"""`(what all parts have in common, a part of a batch) -> means over the part's images`."""


def one_after_the_other(mean_of: MeanOf, parts: int) -> MeanOf:
    """The same means, computed from `parts` equal parts of the batch in turn, in the memory of one part.

    This is exact if `mean_of` is a mean over images. Gradients are such means. Running statistics are too: they move
    from the same old values by a mean over BatchNorm's groups.
    """
    if parts == 1:
        return mean_of

    def mean_of_all(common: PyTree[Array], batch: Batch) -> dict[str, Any]:
        stacked = jax.tree.map(lambda rows: rows.reshape(parts, -1, *rows.shape[1:]), batch)

        def add(total: PyTree[Array], part: Batch) -> tuple[PyTree[Array], None]:
            with inside_a_loop():
                means = mean_of(common, part)
            return jax.tree.map(jnp.add, total, means), None

        like = jax.eval_shape(mean_of, common, jax.tree.map(lambda rows: rows[0], stacked))
        if not jax.tree.leaves(like):
            return like  # nothing to compute
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
        total, _ = lax.scan(add, zeros, stacked)
        return jax.tree.map(lambda leaf: leaf / parts, total)

    return mean_of_all


def on_every_device(
    mean_of: MeanOf,
    mesh: Mesh,
    layout: dict[str, PyTree[PartitionSpec]],
    common_layout: PyTree[PartitionSpec],
) -> MeanOf:
    """The same means, of a batch of which each device computes its share. The devices exchange only the results.

    Args:
      layout: where each result, or all results of a branch, lie: on every device, or `spread`, so that each device gets
        its own part. The branch `own`, with the gradients of `split` parameters, is not exchanged.
      common_layout: where the values lie that all parts have in common.
    """

    def share(common: PyTree[Array], batch: Batch) -> dict[str, Any]:
        means = mean_of(common, batch)
        own = mean_of_rows(means.pop("own"))
        exchanged = {name: specs for name, specs in layout.items() if name != "own"}
        return {**mean_over_devices(means, jax.tree.broadcast(exchanged, means)), "own": own}

    split = PartitionSpec(AXIS)
    # With check_vma, JAX would add up the gradients itself, in every part of the batch and for every use of a
    # parameter.
    return jax.shard_map(share, mesh=mesh, in_specs=(common_layout, split), out_specs=layout, check_vma=False)
