"""How well the neighbours of an image are of its class: recall@k and mean average precision.

Every image is a query once, and all others are ranked by their similarity to it. The query itself is left out. Images
that are equally near have no order. In the average precision all of them count as ranked where the last of them is, as
in scikit-learn's `average_precision_score`. In the recall those of other classes count as nearer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from resnet_jax.analysis.search import Metric, similarities
from resnet_jax.errors import DataError
from resnet_jax.tasks.embed.ranking import ranks_of

RECALLS = (1, 5, 10)


@dataclass(frozen=True)
class Retrieval:
    """The means over the queries.

    Attributes:
      recall: for each k, the share of queries with an image of their class among the k nearest.
      mean_average_precision: over the whole ranking. The average precision of a query is the mean, over the images of
        its class, of the share of its class among the images up to there.
      map_at_r: the same with the first R images alone, R being the number of other images of the class. It is divided
        by R, not by the number of hits (Musgrave et al. 2020, arXiv:2003.08505, section 3.2).
      queries: how many there are.
      alone: images that are the only ones of their class. They cannot be found again, so they are no queries.
    """

    recall: dict[int, float]
    mean_average_precision: float
    map_at_r: float
    queries: int
    alone: int


def retrieval(
    features: Float[np.ndarray, "N D"],
    labels: Int[np.ndarray, " N"],
    *,
    recalls: Sequence[int] = RECALLS,
    metric: Metric = "cosine",
    mesh: Mesh | None = None,
) -> Retrieval:
    """Ranks all images for each image. The similarities are computed in blocks, see `analysis.search`.

    Raises:
      DataError: fewer images than the largest k needs, or no class with two images.
    """
    if max(recalls) >= len(labels):
        raise DataError(
            f"recall@{max(recalls)} needs at least {max(recalls) + 1} images, the query and {max(recalls)} others, and "
            f"there are {len(labels)}; bring more images"
        )
    of_class = {int(label): np.flatnonzero(labels == label) for label in np.unique(labels)}
    if max(map(len, of_class.values())) < 2:
        raise DataError(
            f"each of the {len(of_class)} classes has one image, so no image has another of its class to find; at "
            "least one class needs two. Bring more images"
        )
    first, average, at_r, query = [], [], [], 0
    for block in similarities(features, metric=metric, mesh=mesh):
        for row in block:
            others = of_class[int(labels[query])]
            others = others[others != query]
            query += 1
            if len(others):
                ranks, precisions = ranks_of(row, others)
                first.append(
                    round(ranks[0] * (1 - precisions[0])) + 1
                )  # those of other classes that are as near, and one
                average.append(precisions.mean())
                at_r.append(precisions[ranks <= len(others)].sum() / len(others))
    nearest_hit = np.asarray(first)
    return Retrieval(
        {k: float(np.mean(nearest_hit <= k)) for k in recalls},
        float(np.mean(average)),
        float(np.mean(at_r)),
        len(first),
        len(labels) - len(first),
    )
