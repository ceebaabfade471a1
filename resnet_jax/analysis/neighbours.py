"""Classification by the nearest neighbours among features, with votes as in DINO."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from resnet_jax.errors import DataError
from resnet_jax.runtime.mesh import make_mesh, put_batch, replicated, split_batch

NEIGHBOURS = 20
TEMPERATURE = 0.07
BLOCK_BYTES = 2**28  # of the similarities of a block of queries


def knn_predict(
    known: Float[np.ndarray, "N D"],
    labels: Int[np.ndarray, " N"],
    queries: Float[np.ndarray, "M D"],
    *,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
    mesh: Mesh | None = None,
) -> Int[np.ndarray, " M"]:
    """The label that the nearest neighbours of each query vote for (Caron et al. 2021, arXiv:2104.14294, section 4.1).

    Similarity is the cosine. Each of the nearest votes for its label with weight `exp(similarity / temperature)`. The
    search is exact. It takes queries in blocks, which are split over the devices; every device holds all of `known`.

    Raises:
      DataError: there are fewer known features than neighbours.
    """
    if neighbours > len(known):
        raise DataError(
            f"{neighbours} neighbours cannot be found among {len(known)} images; ask for at most {len(known)}, or "
            "bring more images"
        )
    mesh = mesh or make_mesh()
    classes = int(labels.max()) + 1
    rows = min(len(queries), max(1, BLOCK_BYTES // (4 * len(known))))
    rows = -(-rows // mesh.size) * mesh.size
    on_device = jax.device_put((np.asarray(known, np.float32), np.asarray(labels, np.int32)), replicated(mesh))
    found = []
    for start in range(0, len(queries), rows):
        block = np.asarray(queries[start : start + rows], np.float32)
        padded = np.pad(block, ((0, rows - len(block)), (0, 0)))
        put = put_batch({"queries": padded}, split_batch(mesh))["queries"]
        voted = _vote(*on_device, put, temperature, neighbours=neighbours, classes=classes)
        found.append(np.asarray(voted)[: len(block)])
    return np.concatenate(found)


@partial(jax.jit, static_argnames=("neighbours", "classes"))
def _vote(
    known: Float[Array, "N D"],
    labels: Int[Array, " N"],
    queries: Float[Array, "M D"],
    temperature: float,
    *,
    neighbours: int,
    classes: int,
) -> Int[Array, " M"]:
    similarity = jnp.einsum("md,nd->mn", _unit(queries), _unit(known), precision="highest")
    nearest, places = jax.lax.top_k(similarity, neighbours)
    # Less the largest, which changes no winner: a small temperature would make the weights infinite.
    weights = jnp.exp((nearest - nearest[:, :1]) / temperature)
    hot = jax.nn.one_hot(labels[places], classes)
    return jnp.argmax(jnp.einsum("mk,mkc->mc", weights, hot, precision="highest"), axis=-1)


def _unit(x: Float[Array, "N D"]) -> Float[Array, "N D"]:
    """Of length 1; a row of zeros stays one."""
    length = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.where(length > 0, length, 1)
