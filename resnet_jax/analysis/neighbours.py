"""Classification by the nearest neighbours among features, with votes as in DINO."""

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from resnet_jax.analysis.search import nearest

NEIGHBOURS = 20
TEMPERATURE = 0.07


def knn_predict(
    known: Float[np.ndarray, "N D"],
    labels: Int[np.ndarray, " N"],
    queries: Float[np.ndarray, "M D"] | None = None,
    *,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
    mesh: Mesh | None = None,
) -> Int[np.ndarray, " M"]:
    """The label that the nearest neighbours of each query vote for (Caron et al. 2021, arXiv:2104.14294, section 4.1).

    Similarity is the cosine. Each of the nearest votes for its label with weight `exp(similarity / temperature)`. The
    search is exact.

    Args:
      queries: None = each of the known, by the others (leave one out).

    Raises:
      DataError: there are fewer known features than neighbours.
    """
    places, similarity = nearest(known, queries, neighbours=neighbours, mesh=mesh)
    # Less the largest, which changes no winner: a small temperature would make the weights infinite.
    weights = np.exp((similarity - similarity[:, :1]) / temperature)
    votes = np.zeros((len(places), int(labels.max()) + 1), weights.dtype)
    each = np.arange(len(places))
    for place, weight in zip(places.T, weights.T, strict=True):
        votes[each, labels[place]] += weight
    return np.argmax(votes, axis=1)
