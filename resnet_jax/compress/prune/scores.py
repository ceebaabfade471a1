"""How much each channel matters, by three measures. Channels that go together have one score."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float, PyTree

from resnet_jax.compress.prune.spaces import Spaces
from resnet_jax.errors import ConfigError

By = Literal["bn_scale", "l1", "taylor"]
Scores = Float[np.ndarray, " U"]


def scores_of(
    spaces: Spaces, variables: PyTree[Array], by: By, gradients: Sequence[PyTree[Array]] | None = None
) -> Scores:
    """The score of each unit; the least go first.

    - `bn_scale`: the mean of |scale| over the norms of the channel (Liu et al. 2017, arXiv:1708.06519).
    - `l1`: the sum of |kernel| over the filter that makes the channel, divided by its layer's mean; the mean over these
      layers (Li et al. 2016, arXiv:1608.08710, rank within a layer, where the divisor does not count).
    - `taylor`: the square of what removing the channel changes in the loss, to first order, as a mean over batches:
      `(scale * gradient + bias * gradient) ** 2`, summed over the norms of the channel before it is squared (Molchanov
      et al. 2019, arXiv:1906.10771, equation 8 and section 3.3, with a gate after each norm).

    Args:
      variables: of the network.
      gradients: for `taylor`, the gradients of the loss with respect to the parameters, of one batch each.

    Raises:
      ConfigError: `taylor` without gradients, or gradients that are not finite.
    """
    arrays = {name: np.asarray(leaf, np.float64) for name, leaf in flatten_dict(variables["params"], sep="/").items()}
    if by == "taylor":
        return _taylor(spaces, arrays, gradients or ())
    total, count = np.zeros(spaces.count), np.zeros(spaces.count)
    for name, space in (spaces.normed if by == "bn_scale" else spaces.made).items():
        score = np.abs(arrays[f"{name}/scale"]) if by == "bn_scale" else relative_l1(arrays[f"{name}/kernel"])
        total[space.units] += score
        count[space.units] += 1
    return total / np.maximum(count, 1)


def relative_l1(kernel: Float[np.ndarray, "*S I O"]) -> Float[np.ndarray, " O"]:
    """The sum of |kernel| of each filter, divided by their mean. Filters that are all zero score 0."""
    sums = np.abs(kernel).sum(axis=tuple(range(kernel.ndim - 1)))
    return sums / (sums.mean() or 1)


def _taylor(spaces: Spaces, arrays: Mapping[str, Any], gradients: Sequence[PyTree[Array]]) -> Scores:
    if not gradients:
        raise ConfigError("by = 'taylor' needs the gradients of at least one batch; pass them, or choose by='bn_scale'")
    scores = np.zeros(spaces.count)
    for number, tree in enumerate(gradients):
        grads = {name: np.asarray(leaf, np.float64) for name, leaf in flatten_dict(tree, sep="/").items()}
        change = np.zeros(spaces.count)
        for name, space in spaces.normed.items():
            change[space.units] += sum(arrays[f"{name}/{leaf}"] * grads[f"{name}/{leaf}"] for leaf in ("scale", "bias"))
        if not np.isfinite(change).all():
            raise ConfigError(
                f"by = 'taylor': the gradients of batch {number} are not finite, so nothing can be ranked by them; "
                "check the weights, or choose by='bn_scale'"
            )
        scores += change**2 / len(gradients)
    return scores
