"""A batch computed in parts: by every device for itself, and on a device one after the other."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, PyTree

from resnet_jax.runtime.mesh import AXIS
from resnet_jax.training.split import mean_of_rows
from resnet_jax.training.zero import mean_over_devices

Batch = dict[str, Array]
MeanOf = Callable[[PyTree[Array], Batch], dict[str, Any]]
"""`(what is the same for all parts, a part of a batch) -> means over the part's images`."""


def one_after_the_other(mean_of: MeanOf, parts: int) -> MeanOf:
    """The same means, of `parts` equal parts of the batch in turn, in the memory that one of them takes.

    Exact as long as `mean_of` is a mean over images: gradients are, and so are running statistics, which move from the
    same old values by a mean over BatchNorm's groups.
    """
    if parts == 1:
        return mean_of

    def mean_of_all(common: PyTree[Array], batch: Batch) -> dict[str, Any]:
        stacked = jax.tree.map(lambda rows: rows.reshape(parts, -1, *rows.shape[1:]), batch)

        def add(total: PyTree[Array], part: Batch) -> tuple[PyTree[Array], None]:
            return jax.tree.map(jnp.add, total, mean_of(common, part)), None

        like = jax.eval_shape(mean_of, common, jax.tree.map(lambda rows: rows[0], stacked))
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
    """The same means, of a batch of which each device computes its share: all that they exchange is the results.

    Args:
      layout: of each result, or of all in a branch: on every device, or `spread`, each device getting its own part.
        What is in the branch `own`, gradients of `split` parameters, is not exchanged.
      common_layout: of what is the same for all parts.
    """

    def share(common: PyTree[Array], batch: Batch) -> dict[str, Any]:
        means = mean_of(common, batch)
        own = mean_of_rows(means.pop("own"))
        exchanged = {name: specs for name, specs in layout.items() if name != "own"}
        return {**mean_over_devices(means, jax.tree.broadcast(exchanged, means)), "own": own}

    split = PartitionSpec(AXIS)
    # check_vma would have JAX add up the gradients itself, in every part of the batch and for every use of a parameter.
    return jax.shard_map(share, mesh=mesh, in_specs=(common_layout, split), out_specs=layout, check_vma=False)
