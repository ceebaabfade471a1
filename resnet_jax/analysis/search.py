"""Exact search for the nearest neighbours, in blocks on the devices.

Queries go through in blocks, which are split over the devices; every device holds all known features. A block has at
most `BLOCK_BYTES` of similarities on each. So memory grows with the known features alone, not with the queries. A
set that is searched in itself goes through `within`, at half the arithmetic.

Inner products in float32 are too coarse for the distances between rows that lie close together. So a few more
candidates than asked for are taken, and the host computes their distances anew, from differences. Where even this might
have missed a neighbour, the query is compared with every known row in this way.
"""

from collections.abc import Callable, Hashable, Iterator
from functools import lru_cache, partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from resnet_jax.analysis.within import best_within
from resnet_jax.errors import DataError
from resnet_jax.runtime.mesh import AXIS, make_mesh, put_batch, replicated, split_batch

BLOCK_BYTES = 2**26
"""Of the similarities of a block of queries, on each device."""
MORE = 8  # candidates besides those asked for, where distances are computed anew
TOGETHER_BYTES = 2**23  # of candidates whose distances are computed anew together; they fit a processor's cache

Metric = Literal["cosine", "euclidean"]
OfBlock = Callable[[Array, Array, Array], tuple[Array, ...]]
"""From the known features, a block of queries and their places among the known to arrays with a row for each query."""


class Nearest(NamedTuple):
    """The k nearest of each of M queries, the nearest first. Of equally near ones, the first comes first.

    Attributes:
      places: rows of the known features.
      values: cosines, or Euclidean distances.
    """

    places: Int[np.ndarray, "M k"]
    values: Float[np.ndarray, "M k"]


def nearest(
    known: Float[np.ndarray, "N D"],
    queries: Float[np.ndarray, "M D"] | None = None,
    *,
    neighbours: int,
    metric: Metric = "cosine",
    mesh: Mesh | None = None,
) -> Nearest:
    """The nearest neighbours of each query among the known features, by comparing it with each of them.

    Args:
      known: of any floating type; computed with in float32, or in float64 if they are float64 and JAX's `enable_x64` is
        on.
      queries: None = the known features themselves; none is its own neighbour.
      metric: `cosine` takes the largest cosines (a row of zeros is like other rows of zeros, and has cosine 0 with all
        others), `euclidean` the smallest distances.
      mesh: the devices of this process; None = all.

    Raises:
      DataError: there are fewer known features than neighbours.
    """
    others = len(known) - (queries is None)
    if neighbours > others:
        raise DataError(
            f"{neighbours} neighbours cannot be found among {others}{' other' * (queries is None)} images; ask for at "
            f"most {others}, or bring more images"
        )
    mesh = mesh or make_mesh()
    prepared = _prepare(known, queries, metric)
    count = min(neighbours + MORE, others)
    if queries is None:
        scores, places = best_within(prepared.known, count, mesh)
    else:
        blocks = _blocks(prepared, _on_each_device(mesh, _search, count=count), mesh)
        scores, places = (np.concatenate(arrays) for arrays in zip(*blocks, strict=True))
    places, distances = _measured(prepared, places, scores, neighbours, complete=count == others)
    return Nearest(places, 1 - distances**2 / 2 if metric == "cosine" else distances)


def similarities(
    known: Float[np.ndarray, "N D"],
    queries: Float[np.ndarray, "M D"] | None = None,
    *,
    metric: Metric = "cosine",
    mesh: Mesh | None = None,
) -> Iterator[Float[np.ndarray, "m N"]]:
    """Blocks of how similar the queries are to all known features: larger is nearer, and -inf is a query itself.

    The arguments are those of `nearest`. The numbers order the known features for each query; they are not comparable
    between queries.
    """
    mesh = mesh or make_mesh()
    for (block,) in _blocks(_prepare(known, queries, metric), _on_each_device(mesh, _only_scores), mesh):
        yield block


class _Prepared(NamedTuple):
    """Features whose distances are compared. `own` is the row of a query among the known, -1 where it is none."""

    known: Float[np.ndarray, "N D"]
    queries: Float[np.ndarray, "M D"]
    own: Int[np.ndarray, " M"]


def _prepare(known: np.ndarray, queries: np.ndarray | None, metric: Metric) -> _Prepared:
    """In one type. The mean is taken from both: it changes no difference, but smaller numbers have smaller errors."""
    arrays = [np.asarray(x, np.promote_types(x.dtype, np.float32)) for x in (known, queries) if x is not None]
    if metric == "cosine":  # the square of the distance of rows of length 1 is 2 - 2 cosine
        lengths = [np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64))[:, None] for x in arrays]
        arrays = [x / np.where(of > 0, of, 1).astype(x.dtype) for x, of in zip(arrays, lengths, strict=True)]
        if not all(of.all() for of in lengths):  # a row of zeros gets a direction of its own
            arrays = [np.append(x, (of == 0).astype(x.dtype), axis=1) for x, of in zip(arrays, lengths, strict=True)]
    mean = arrays[0].mean(axis=0, dtype=np.float64).astype(arrays[0].dtype)
    dtype = jax.dtypes.canonicalize_dtype(arrays[0].dtype)  # JAX makes float32 of float64 unless it is told not to
    moved = [(x - mean).astype(dtype, copy=False) for x in arrays]
    own = np.arange(len(known)) if queries is None else np.full(len(queries), -1)
    return _Prepared(moved[0], moved[-1], own.astype(np.int32))


@lru_cache(32)
def _on_each_device(mesh: Mesh, function: Callable[..., tuple[Array, ...]], **static: Hashable) -> OfBlock:
    """`function(known, queries, own)` for a block. Each device computes its share of the queries."""
    rows = PartitionSpec(AXIS)
    inputs = (PartitionSpec(), rows, rows)
    share = partial(function, **static)
    return jax.jit(jax.shard_map(share, mesh=mesh, in_specs=inputs, out_specs=rows, check_vma=False))


def _blocks(prepared: _Prepared, function: OfBlock, mesh: Mesh) -> Iterator[tuple[np.ndarray, ...]]:
    """What the function gives for one block of queries after the other, without the padding of the last."""
    count = len(prepared.queries)
    share = max(1, BLOCK_BYTES // (prepared.known.itemsize * len(prepared.known)))
    rows = min(share, -(-count // mesh.size)) * mesh.size
    known = jax.device_put(prepared.known, replicated(mesh))
    for start in range(0, count, rows):
        stop = min(start + rows, count)
        queries = np.pad(prepared.queries[start:stop], ((0, rows - stop + start), (0, 0)))
        own = np.pad(prepared.own[start:stop], (0, rows - stop + start), constant_values=-1)
        put = put_batch({"queries": queries, "own": own}, split_batch(mesh))
        yield tuple(np.asarray(out)[: stop - start] for out in function(known, put["queries"], put["own"]))


def _scores(known: Float[Array, "N D"], queries: Float[Array, "m D"], own: Int[Array, " m"]) -> Float[Array, "m N"]:
    """(|query|^2 - distance^2) / 2."""
    scores = jnp.einsum("md,nd->mn", queries, known, precision="highest") - jnp.sum(known**2, axis=1)[None] / 2
    return jnp.where(jnp.arange(len(known))[None] == own[:, None], -jnp.inf, scores)


def _only_scores(
    known: Float[Array, "N D"], queries: Float[Array, "m D"], own: Int[Array, " m"]
) -> tuple[Float[Array, "m N"]]:
    return (_scores(known, queries, own),)


def _search(
    known: Float[Array, "N D"], queries: Float[Array, "m D"], own: Int[Array, " m"], *, count: int
) -> tuple[Float[Array, "m c"], Int[Array, "m c"]]:
    scores, places = lax.top_k(_scores(known, queries, own), count)
    return scores, places


def _measured(
    prepared: _Prepared,
    places: Int[np.ndarray, "M c"],
    scores: Float[np.ndarray, "M c"],
    neighbours: int,
    *,
    complete: bool,
) -> Nearest:
    """The nearest of the candidates, by distances computed from differences. Where it is not certain that they are the
    nearest of all, by those to all rows.

    Args:
      complete: every row is a candidate, but for the query itself.
    """
    known, queries, own = prepared
    rows = max(1, TOGETHER_BYTES // (known.itemsize * known.shape[1] * places.shape[1]))
    found = [
        _ranked(known, queries[i : i + rows], own[i : i + rows], np.sort(places[i : i + rows], axis=1), neighbours)
        for i in range(0, len(queries), rows)
    ]
    nearest_places, distances = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    if not complete:
        # No row that is not among the candidates has a better score than the last of them, but for rounding.
        size, largest = (queries**2).sum(axis=1), (known**2).sum(axis=1).max()
        rounding = 4 * np.finfo(known.dtype).eps * known.shape[1] ** 0.5 * (size + largest)
        least = np.sqrt(np.maximum(size - 2 * scores[:, -1] - rounding, 0))
        everyone = np.arange(len(known))[None]
        for i in np.flatnonzero(distances[:, -1] > least * (1 + 1e-6)):
            one = _ranked(known, queries[i : i + 1], own[i : i + 1], everyone, neighbours)
            nearest_places[i], distances[i] = one.places[0], one.values[0]
    return Nearest(nearest_places, distances)


def _ranked(
    known: np.ndarray, queries: np.ndarray, own: np.ndarray, places: Int[np.ndarray, "m c"], neighbours: int
) -> Nearest:
    """The nearest of the rows at these places. Of equally near ones, those that are named first."""
    apart = known[places] - queries[:, None]
    distances = np.sqrt(np.einsum("mcd,mcd->mc", apart, apart))
    distances[places == own[:, None]] = np.inf
    order = np.argsort(distances, axis=1, kind="stable")[:, :neighbours]
    return Nearest(np.take_along_axis(places, order, axis=1), np.take_along_axis(distances, order, axis=1))
