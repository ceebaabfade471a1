"""Which object an anchor or a proposal is to find, and which of them a step learns from."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

NOTHING, BETWEEN = -1, -2
"""In place of an object's number: the box is background; or it overlaps too much for that, and too little for an
object."""


def match(
    overlaps: Float[Array, "G N"], real: Bool[Array, " G"], low: float, high: float, *, keep_best: bool = False
) -> Int[Array, " N"]:
    """The object of each box, `NOTHING`, or `BETWEEN`: `torchvision.models.detection._utils.Matcher`.

    Args:
      overlaps: IoU of each object with each box.
      real: whether an object is one, and not padding.
      low, high: a box whose largest overlap is below `low` is background, and from `high` on it has the object of this
        overlap; of equal ones the first.
      keep_best: also give an object the boxes that overlap it most, with all ties, however little that is. Such a box
        has the object that it overlaps most itself.
    """
    overlaps = jnp.where(real[:, None], overlaps, -1)
    largest, own = jnp.max(overlaps, axis=0), jnp.argmax(overlaps, axis=0)
    found = jnp.where(largest < low, NOTHING, jnp.where(largest < high, BETWEEN, own))
    if keep_best:
        best = jnp.max(overlaps, axis=1, keepdims=True)
        found = jnp.where(jnp.any((overlaps == best) & real[:, None], axis=0), own, found)
    return found


def sample(
    key: Key[Array, ""], positive: Bool[Array, " N"], negative: Bool[Array, " N"], count: int, share: float
) -> tuple[Bool[Array, " N"], Bool[Array, " N"]]:
    """Draws `count` boxes at most, of which `share` at most are positive; negative ones fill up the rest.

    The law is `torchvision.models.detection._utils.BalancedPositiveNegativeSampler`'s; the draw is not torch's.

    Args:
      key: of the image, such as that of its place in the global batch. The draw then does not depend on devices.
    """
    order = jax.random.uniform(key, positive.shape)
    most = min(int(count * share), positive.shape[0])
    drawn = _first(order, positive, most)
    return drawn, _first(order, negative, count - jnp.sum(drawn))


def _first(order: Float[Array, " N"], among: Bool[Array, " N"], count: int | Array) -> Bool[Array, " N"]:
    """The `count` of `among` that come first in this order."""
    ranks = jnp.argsort(jnp.argsort(jnp.where(among, order, jnp.inf)))
    return among & (ranks < count)
