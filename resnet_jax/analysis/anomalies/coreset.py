"""A few patches that stand for many: greedy k-centre selection, and the distance to the nearest."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

BLOCK_BYTES = 2**27  # of the distances of a block of queries


@partial(jax.jit, static_argnames="count")
def _choose(features: Float[Array, "N D"], count: int) -> Int[Array, " count"]:
    def distances(centre: Float[Array, " D"]) -> Float[Array, " N"]:
        return jnp.sum((features - centre[None]) ** 2, axis=1)

    def step(number: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        nearest, chosen = state
        place = jnp.argmax(nearest)
        return jnp.minimum(nearest, distances(features[place])), chosen.at[number].set(place)

    first = jnp.argmax(distances(jnp.mean(features, axis=0)))
    start = distances(features[first]), jnp.zeros(count, jnp.int32).at[0].set(first)
    return lax.fori_loop(1, count, step, start)[1]


def coreset(features: Float[np.ndarray, "N D"], count: int) -> Int[np.ndarray, " M"]:
    """Rows that lie close to all rows: each is the one that is farthest from those chosen before (Roth et al. 2022,
    algorithm 1). The first is the one farthest from the mean, so nothing is random.

    Args:
      count: how many; fewer are chosen where the others are equal to rows that are chosen.
    """
    return np.array(list(dict.fromkeys(np.asarray(_choose(features, count)).tolist())))


def projection(features: int, to: int, seed: int) -> Float[np.ndarray, "D P"]:
    """A random matrix that nearly keeps distances (Johnson and Lindenstrauss 1984); few features stay as they are."""
    if features <= to:
        return np.eye(features, dtype=np.float32)
    draws = np.random.default_rng(seed).normal(size=(features, to)) / np.sqrt(to)
    return draws.astype(np.float32)


def nearest(
    queries: Float[np.ndarray, "N D"], bank: Float[np.ndarray, "M D"], count: int = 1
) -> tuple[Float[np.ndarray, "N k"], Int[np.ndarray, "N k"]]:
    """The Euclidean distances to the nearest rows of the bank, and which these are, the nearest first.

    The search is exact and takes queries in blocks, whose distances take 128 MB at most.
    """
    rows = min(len(queries), max(1, BLOCK_BYTES // (4 * len(bank))))
    on_device = jnp.asarray(bank)
    found = []
    for start in range(0, len(queries), rows):
        block = queries[start : start + rows]
        padded = np.pad(block, ((0, rows - len(block)), (0, 0)))
        found.append([np.asarray(x)[: len(block)] for x in _nearest(padded, on_device, count=count)])
    distances, places = zip(*found, strict=True)
    return np.concatenate(distances), np.concatenate(places)


@partial(jax.jit, static_argnames="count")
def _nearest(
    queries: Float[Array, "N D"], bank: Float[Array, "M D"], *, count: int
) -> tuple[Float[Array, "N k"], Int[Array, "N k"]]:
    # |q - m|^2 = |q|^2 - 2 q.m + |m|^2 loses digits where q and m are close; less the mean of the bank, fewer.
    middle = jnp.mean(bank, axis=0, keepdims=True)
    bank, queries = bank - middle, queries - middle
    products = jnp.einsum("nd,md->nm", queries, bank, precision="highest")
    _, places = lax.top_k(2 * products - jnp.sum(bank**2, axis=1)[None], count)
    # The distances themselves lose none.
    distances = lax.map(lambda k: jnp.linalg.norm(queries - bank[k], axis=1), places.T).T
    return distances, places
