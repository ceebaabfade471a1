"""Where the images of a query's class stand among all others, ranked by their similarity to the query."""

import numpy as np
from jaxtyping import Float, Int


def ranks_of(
    row: Float[np.ndarray, " N"], others: Int[np.ndarray, " R"]
) -> tuple[Int[np.ndarray, " R"], Float[np.ndarray, " R"]]:
    """The ranks from 1 of the other images of the class, in order, and the precision at each of them. Images that are
    equally near all count as ranked where the last of them is, as in scikit-learn's `average_precision_score`.

    Args:
      row: the similarity of each image to the query; that of the query itself is -inf.
      others: the other images of its class.
    """
    mine = np.sort(row[others])
    at_least = lambda ordered: len(ordered) - np.searchsorted(ordered, mine[::-1], side="left")
    ranks = at_least(np.sort(row))
    return ranks, at_least(mine) / ranks
