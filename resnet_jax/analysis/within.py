"""A set searched in itself: every product of two rows is computed once and serves both.

The rows are cut into tiles. A pair of tiles gives one block of inner products: its rows are the scores of the first
tile's rows, its columns those of the second's. The pairs are split over the devices; each keeps the best of what it has
seen for every row, and the host takes the best of all devices. This is half of the arithmetic of comparing every row
with every row.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from resnet_jax.runtime.mesh import AXIS, put_batch, replicated, split_batch

TILE = 2048
"""Rows of a tile at most. Times on 2 cores with 10,000 rows are equal from 2,000 to 2,500, and 11 % more at 1,000."""


class Best(NamedTuple):
    """The c best scores of each row, the best first, and where they are."""

    scores: Float[Array, "N c"]
    places: Int[Array, "N c"]


def best_within(
    known: Float[np.ndarray, "N D"], count: int, mesh: Mesh
) -> tuple[Float[np.ndarray, "N c"], Int[np.ndarray, "N c"]]:
    """The `count` nearest others of each of the N rows: their scores, (|row|^2 - distance^2) / 2, and their places.

    Args:
      count: less than N.
    """
    tiles = -(-len(known) // TILE)
    rows = -(-len(known) // tiles)
    pairs = np.stack(np.triu_indices(tiles), axis=1).astype(np.int32)
    pairs = np.pad(pairs, ((0, -len(pairs) % mesh.size), (0, 0)), constant_values=-1)  # no pair: nothing to do
    padded = np.pad(known, ((0, tiles * rows - len(known)), (0, 0)))
    halves = np.full(len(padded), np.inf, known.dtype)  # of rows that are padding: infinitely far
    halves[: len(known)] = np.einsum("nd,nd->n", known, known) / 2
    every, half = (jax.device_put(x, replicated(mesh)) for x in (padded, halves))
    best = _on_each_device(mesh, rows, count)(every, half, put_batch({"pairs": pairs}, split_batch(mesh))["pairs"])
    scores, places = (np.concatenate(np.asarray(of), axis=1)[: len(known)] for of in best)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(places, order, axis=1)


@lru_cache(32)
def _on_each_device(mesh: Mesh, rows: int, count: int) -> Callable[[Array, Array, Array], tuple[Array, Array]]:
    """From the rows, half their squared lengths and pairs of tiles to the best of each device, (devices, N, c)."""

    def share(
        known: Float[Array, "N D"], halves: Float[Array, " N"], pairs: Int[Array, "pairs 2"]
    ) -> tuple[Array, Array]:
        def visit(best: Best, pair: Int[Array, "2"]) -> tuple[Best, None]:
            return lax.cond(pair[0] < 0, lambda: best, lambda: _visited(best, known, halves, pair * rows, rows)), None

        nothing = Best(jnp.full((len(known), count), -jnp.inf, known.dtype), jnp.zeros((len(known), count), jnp.int32))
        best, _ = lax.scan(visit, nothing, pairs)
        return best.scores[None], best.places[None]

    split = PartitionSpec(AXIS)
    inputs = (PartitionSpec(), PartitionSpec(), split)
    return jax.jit(jax.shard_map(share, mesh=mesh, in_specs=inputs, out_specs=split, check_vma=False))


def _visited(best: Best, known: Array, halves: Array, starts: Int[Array, "2"], rows: int) -> Best:
    """The best after one pair of tiles, which begin at these rows."""
    first, second = (lax.dynamic_slice_in_dim(known, start, rows) for start in starts)
    of_first, of_second = (lax.dynamic_slice_in_dim(halves, start, rows) for start in starts)
    products = jnp.einsum("md,nd->mn", first, second, precision="highest")
    itself = jnp.eye(rows, dtype=bool) & (starts[0] == starts[1])
    products = jnp.where(itself, -jnp.inf, products)
    best = _merged(best, starts[0], products - of_second[None], starts[1])
    turned = lambda: _merged(best, starts[1], products.T - of_first[None], starts[0])
    return lax.cond(starts[0] == starts[1], lambda: best, turned)


def _merged(best: Best, start: Array, scores: Float[Array, "m n"], first_place: Array) -> Best:
    """The best of the rows from `start` on, after these scores of the rows from `first_place` on."""
    new, places = lax.top_k(scores, min(best.scores.shape[1], scores.shape[1]))
    kept = Best(*(lax.dynamic_slice_in_dim(of, start, len(scores)) for of in best))
    all_places = jnp.concatenate([kept.places, places + first_place], axis=1)
    together, order = lax.top_k(jnp.concatenate([kept.scores, new], axis=1), best.scores.shape[1])
    now = Best(together, jnp.take_along_axis(all_places, order, axis=1))
    return Best(*(lax.dynamic_update_slice_in_dim(of, rows, start, 0) for of, rows in zip(best, now, strict=True)))
