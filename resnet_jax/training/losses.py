"""Losses, and how often the label is among the largest logits."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


def one_hot(labels: Int[Array, " N"], num_classes: int) -> Float[Array, "N K"]:
    """Targets in float32 with all weight on the label."""
    return jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)


def cross_entropy(
    logits: Float[Array, "N K"], targets: Float[Array, "N K"], label_smoothing: float = 0.0
) -> Float[Array, " N"]:
    """Softmax cross entropy per image. Its mean is `torch.nn.CrossEntropyLoss(label_smoothing=...)`.

    With smoothing e a target t becomes (1 - e) * t + e / K (Szegedy et al. 2016, arXiv:1512.00567, section 7).

    Args:
      targets: a distribution over the classes for each image: `one_hot`, or a mixture of several.
    """
    smooth = optax.smooth_labels(targets.astype(logits.dtype), label_smoothing)
    return optax.softmax_cross_entropy(logits, smooth)


def in_top_k(logits: Float[Array, "N K"], labels: Int[Array, " N"], k: int) -> Float[Array, " N"]:
    """1 where the label is among the k largest logits, else 0. Of equal logits the lower class number counts as larger.

    It counts larger logits and does not sort. So it also holds for ties and for fewer than k classes. A logit that is
    not a number is never a hit.
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    classes = jnp.arange(logits.shape[-1])[None]
    ahead = (logits > own) | ((logits == own) & (classes < labels[:, None]))
    return ((jnp.sum(ahead, axis=-1) < k) & ~jnp.isnan(logits).any(axis=-1)).astype(jnp.float32)
