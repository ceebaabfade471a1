"""Which channels stay: the best of each layer, or of all layers together."""

import math
from typing import Literal

import numpy as np
from jaxtyping import Bool

from resnet_jax.compress.prune.scores import Scores
from resnet_jax.compress.prune.spaces import Pool, Spaces
from resnet_jax.models.layers import squeezed

Which = Literal["inner", "all"]
Scope = Literal["global", "layer"]
Kept = Bool[np.ndarray, " U"]


def choose(
    spaces: Spaces,
    scores: Scores,
    hidden: Scores,
    *,
    keep: float,
    which: Which,
    scope: Scope,
    floor: float,
    multiple: int,
    ratio: int,
) -> Kept:
    """For each unit, whether it stays.

    Args:
      hidden: scores of the channels inside squeeze-and-excitation. As many of them stay as such a gate has over the
        channels that stay.
      keep: the share of the channels that stay, among those that may go.
      which: `inner` = those inside the stem and the blocks; `all` = also those that blocks add to.
      scope: `layer` = this share of each layer; `global` = the best of all layers.
      floor: `global`: the share of each layer that stays at least. One channel of each layer always stays.
      multiple: what stays of a layer is rounded to multiples of it, at least one.
      ratio: of squeeze-and-excitation.
    """
    kept = np.ones(spaces.count, bool)
    chosen = [pool for pool in spaces.pools if pool.kind == "inner" or (pool.kind == "shared" and which == "all")]
    for pool in chosen:
        kept[pool.units] = False
        # Rounded half up, so that more than a half stays of a layer with an odd number.
        share = keep if scope == "layer" else min(floor, keep)
        _keep_best(kept, pool, scores, max(1, math.floor(share * len(pool.units) + 0.5)))
    if scope == "global":
        units = np.concatenate([np.array(pool.units) for pool in chosen])
        wanted = math.floor(keep * len(units) + 0.5) - np.count_nonzero(kept[units])
        dropped = units[~kept[units]]
        kept[dropped[np.argsort(-scores[dropped], kind="stable")[: max(0, wanted)]]] = True
    for pool in chosen:
        count = max(1, math.floor(kept[pool.units].sum() / multiple + 0.5)) * multiple
        kept[pool.units] = False
        _keep_best(kept, pool, scores, count)
    _keep_apart(spaces, scores, kept)
    for pool, scaled in spaces.gates:
        kept[pool.units] = False
        _keep_best(kept, pool, hidden, squeezed(int(kept[scaled.units].sum()), ratio))
    return kept


def _keep_best(kept: Kept, pool: Pool, scores: Scores, count: int) -> None:
    units = np.array(pool.units)
    kept[units[np.argsort(-scores[units], kind="stable")[:count]]] = True


def _keep_apart(spaces: Spaces, scores: Scores, kept: Kept) -> None:
    """Keeps one channel more where a shortcut that projects would get as many channels as it puts out: the smaller
    network would take it for the identity."""
    while True:
        same = [larger for larger, smaller in spaces.differ if kept[larger.units].sum() == kept[smaller.units].sum()]
        if not same:
            return
        dropped = same[0].units[~kept[same[0].units]]
        kept[dropped[np.argmax(scores[dropped])]] = True
