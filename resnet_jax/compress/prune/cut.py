"""A network without some of its channels: the arrays are sliced, and the network is told its widths."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Int, PyTree

from resnet_jax.compress.fold import check_known
from resnet_jax.compress.prune.choice import Kept, Scope, Which, choose
from resnet_jax.compress.prune.scores import By, scores_of
from resnet_jax.compress.prune.spaces import Spaces, spaces_of
from resnet_jax.errors import ConfigError, ModelError
from resnet_jax.models import ResNet
from resnet_jax.models.headed import with_options

STEPS = 256  # of the share that is kept, where it is searched


class Pruned(NamedTuple):
    """A smaller network.

    Attributes:
      kept: for each convolution, the channels of its output that stay, in the order that they have now.
    """

    model: Any
    variables: PyTree[Array]
    kept: Mapping[str, Int[np.ndarray, " K"]]


def prune(
    model: nn.Module,
    variables: PyTree[Array],
    keep: float | Callable[[Any], bool],
    *,
    by: By = "bn_scale",
    which: Which = "all",
    scope: Scope = "layer",
    floor: float = 0.1,
    multiple: int = 1,
    gradients: Sequence[PyTree[Array]] | None = None,
) -> Pruned:
    """Removes the channels that matter least. What stays computes what it did when the others were zero.

    Channels that are added together go together: those of all convolutions that write into one residual stream, and
    where a shortcut pads with zeros also those at the same place in the next stages.

    Args:
      model: a network of `create_model`.
      variables: its `{"params", "batch_stats"}`.
      keep: the share of the channels that stay, among those that may go. Or a function that says of a smaller network
        whether it is small enough: then the largest share for which it is.
      by: how channels are ranked, see `scores.scores_of`.
      which: `inner` = the channels inside blocks and inside a deep stem; `all` = also those that blocks add to.
      scope: `layer` = this share of each layer; `global` = the best of all layers.
      floor: with `global`, the share of each layer that stays at least. One channel always stays.
      multiple: round what stays of each layer to multiples of it: some programs are slow with other numbers.
      gradients: for `by="taylor"`, the gradients of the loss with respect to the parameters, of one batch each.

    Raises:
      ConfigError: a number out of range, nothing goes, no network is small enough, or `taylor` without gradients.
      ModelError: a part of the network mixes channels in a way that pruning does not know; names the layer.
    """
    if not callable(keep) and not 0 < keep <= 1:
        raise ConfigError(f"keep = {keep:g} is the share of the channels that stay; it must be above 0 and at most 1")
    if not 0 <= floor < 1:
        raise ConfigError(f"floor = {floor:g} is the share of each layer that stays; it must be at least 0 and below 1")
    if multiple < 1:
        raise ConfigError(f"multiple = {multiple} must be at least 1")
    spaces = spaces_of(model)
    if which == "all" and not isinstance(model, ResNet):
        raise ModelError(
            f"the head of {type(model).__name__} reads what the stages put out, and pruning does not know it; prune "
            "the channels inside the blocks alone, which='inner' (--which inner)"
        )
    scores = scores_of(spaces, variables, by, gradients)
    hidden = scores_of(spaces, variables, "l1")
    ratio = check_known(model).se_ratio

    def kept_at(share: float) -> Kept:
        options: Any = {"which": which, "scope": scope, "floor": floor, "multiple": multiple, "ratio": ratio}
        return choose(spaces, scores, hidden, keep=share, **options)

    def smaller(kept: Kept) -> Any:
        return with_options(model, widths=tuple(int(kept[space.units].sum()) for space in spaces.widths))

    share = _largest(lambda share: keep(smaller(kept_at(share)))) if callable(keep) else keep
    kept = kept_at(share)
    if kept.all():
        raise ConfigError(
            f"no channel goes: {share:.3g} of each layer, rounded to a multiple of {multiple}, is all of it. Remove "
            "more, or round less (--multiple 1)"
        )
    orders = {name: space.order(kept) for name, space in spaces.made.items()}
    return Pruned(smaller(kept), _cut(variables, spaces, kept), orders)


def _largest(fits: Callable[[float], bool]) -> float:
    """The largest share that fits."""
    low, high = 0, STEPS + 1  # `low` fits, `high` does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle / STEPS) else (low, middle)
    if low == 0:
        raise ConfigError(
            f"no network is small enough: even {1 / STEPS:.1%} of the channels are too many. Ask for less, let other "
            "channels go too (--which all), or lower the floor"
        )
    return low / STEPS


def _cut(variables: PyTree[Array], spaces: Spaces, kept: Kept) -> PyTree[Array]:
    """The arrays without the channels that go: of kernels, norms, statistics and the last layer."""
    flat = dict(flatten_dict(variables, sep="/"))
    for name, axes in spaces.axes.items():
        if name not in flat:
            continue  # a convolution without bias
        array = np.asarray(flat[name])
        for axis in axes:
            order, size = axis.space.order(kept), len(axis.space.units)
            index = np.concatenate([order + size * i for i in range(axis.times)])
            array = np.take(array, index, axis.number)
        flat[name] = jnp.asarray(array)
    return unflatten_dict(flat, sep="/")
