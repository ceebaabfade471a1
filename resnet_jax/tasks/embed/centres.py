"""The softmax over the centres of all classes, whose rows are split over the devices.

Each device gathers the embeddings of the whole batch, and compares them with its own centres. Two small exchanges make
the softmax exact: the largest logit of each example, and its sum of exponentials beside its own cosine.

A centre may be one of several of its class (sub-centres, Deng et al. 2020, ECCV); the nearest counts.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key

from resnet_jax.runtime.mesh import AXIS
from resnet_jax.tasks.embed.margins import Law

BLOCKS = 128
"""The rows of the centres are a multiple of this, so that 1, 2, 4 ... 128 devices can share them."""


class Columns(NamedTuple):
    """The centres that a device compares with.

    Attributes:
      centres: in the order of the columns.
      counts: whether a column is a class, and not there twice.
      own: for each example, the column of its own class, and whether it is on this device.
    """

    centres: Float[Array, "C S E"]
    counts: Float[Array, " C"]
    own: tuple[Int[Array, " N"], Float[Array, " N"]]


def rows_for(classes: int) -> int:
    """The rows of the centres of this many classes. The last ones may be of no class."""
    return -(-classes // BLOCKS) * BLOCKS


def gathered(values: Array) -> Array:
    """The rows of all devices, in the order of the batch."""
    return lax.all_gather(values, AXIS, tiled=True)


def own_part(values: Array, like: Array) -> Array:
    """The rows of the whole batch that are this device's: as many as `like` has."""
    return lax.dynamic_slice_in_dim(values, lax.axis_index(AXIS) * len(like), len(like))


def softmax_loss(
    points: Float[Array, "N E"],
    labels: Int[Array, " N"],
    centres: Float[Array, "R S E"],
    law: Law,
    *,
    classes: int,
    scale: float,
    cosines: bool = True,
    share: float = 1.0,
    key: Key[Array, ""] | None = None,
    precision: lax.PrecisionLike = None,
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """The cross entropy of each example of the whole batch, and whether its own class is the nearest without margin.
    For use under `shard_map` over `mesh.AXIS`.

    Args:
      points: the embeddings of the whole batch, the same on every device.
      centres: this device's rows.
      law: what becomes of the cosine of the own class.
      scale: factor of the cosines.
      cosines: whether points and centres are brought to length 1; else their products are the logits, as in an
        ordinary classifier without bias.
      share: of the centres of other classes, those that are drawn for this step (Partial FC, An et al. 2022,
        arXiv:2203.15565). The centres of the batch's own classes always count. A draw belongs to a row, so it does not
        depend on the devices.
      key: of the draws.
    """
    columns = _columns(labels, centres, classes, share, key)
    if cosines:
        points, beside = unit(points), unit(columns.centres)
    else:
        beside = columns.centres
    products = jnp.einsum("ne,cse->ncs", points, beside, precision=precision).max(axis=-1)
    if cosines:
        products = jnp.clip(products, -1.0, 1.0)
    place, here = columns.own
    mine = jnp.arange(products.shape[1])[None] == jnp.where(here, place, -1)[:, None]
    logits = jnp.where(columns.counts[None], scale * products, -jnp.inf)
    top = lax.pmax(lax.stop_gradient(logits.max(axis=1)), AXIS)
    others = jnp.where(mine, -jnp.inf, logits)
    own = jnp.sum(jnp.where(mine, products, 0), axis=1)
    own, rest = lax.psum(jnp.stack([own, jnp.sum(jnp.exp(others - top[:, None]), axis=1)]), AXIS)
    changed = scale * law(own)
    # The largest of all logits, that of the own class after the margin among them.
    shift = jnp.maximum(top, lax.stop_gradient(changed))
    losses = jnp.log(rest * jnp.exp(top - shift) + jnp.exp(changed - shift)) + shift - changed
    return losses, (scale * own >= top).astype(losses.dtype)


def unit(vectors: Float[Array, "*N E"]) -> Float[Array, "*N E"]:
    """Vectors of length 1. A vector of zeros stays one, and gets no gradient that is not a number."""
    squares = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
    return vectors * lax.rsqrt(jnp.maximum(squares, 1e-24))


def _columns(
    labels: Int[Array, " N"], centres: Float[Array, "R S E"], classes: int, share: float, key: Key[Array, ""] | None
) -> Columns:
    rows = len(centres)
    first = lax.axis_index(AXIS) * rows
    place = labels - first
    here = (place >= 0) & (place < rows)
    exists = first + jnp.arange(rows) < classes
    if share >= 1:
        return Columns(centres, exists, (place, here))
    assert key is not None
    kept = jnp.clip(place, 0, rows - 1)
    same = labels[:, None] == labels[None]
    earliest = jnp.argmax(same, axis=1)  # of several examples of a class, the first has the column
    is_first = earliest == jnp.arange(len(labels))
    positive = jnp.zeros(rows, bool).at[kept].max(here)
    drawn = _drawn(key, rows, first, share)
    chosen = jnp.concatenate([kept, drawn])
    counts = jnp.concatenate([here & is_first, exists[drawn] & ~positive[drawn]])
    return Columns(centres[chosen], counts, (earliest, here))


def _drawn(key: Key[Array, ""], rows: int, first: Int[Array, ""], share: float) -> Int[Array, " D"]:
    """Rows of this device: of each of the `BLOCKS` blocks of all rows, the same number, at random."""
    blocks = BLOCKS // lax.axis_size(AXIS)
    block = rows // blocks
    number = min(block, max(1, round(share * block)))
    uniform = lax.dynamic_slice_in_dim(jax.random.uniform(key, (BLOCKS * block,)), first, rows)
    _, least = lax.top_k(-uniform.reshape(blocks, block), number)
    return (least + jnp.arange(blocks)[:, None] * block).reshape(-1)
