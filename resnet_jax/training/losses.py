"""Losses, distances between two networks, and how often the label is among the largest logits."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

SMALLEST_NORM = 1e-12
"""Of an attention map: a stage that puts out zeros alone looks nowhere, and not at infinity."""


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


def binary_cross_entropy(
    logits: Float[Array, "N K"],
    targets: Float[Array, "N K"],
    label_smoothing: float = 0.0,
    threshold: float | None = None,
    *,
    sum_classes: bool = False,
) -> Float[Array, " N"]:
    """The mean over the classes of the binary cross entropies with `sigmoid(logits)`, per image (Wightman et al. 2021,
    arXiv:2110.00476, section 3.2). Its mean is that of timm's `BinaryCrossEntropy`.

    Args:
      targets: as of `cross_entropy`; they are smoothed alike.
      threshold: smoothed targets above it become 1, the others 0; None = they stay as they are.
      sum_classes: the sum over the classes instead of the mean.
    """
    smooth = optax.smooth_labels(targets.astype(logits.dtype), label_smoothing)
    if threshold is not None:
        smooth = (smooth > threshold).astype(logits.dtype)
    each = optax.sigmoid_binary_cross_entropy(logits, smooth)
    return jnp.sum(each, axis=-1) if sum_classes else jnp.mean(each, axis=-1)


def divergence(logits: Float[Array, "*B K"], wanted: Float[Array, "*B K"], temperature: float) -> Float[Array, "*B"]:
    """How far the probabilities of a network are from those that are wanted: `T^2 KL(wanted / T || logits / T)`, summed
    over the classes. Without T^2 the gradients would shrink as T grows (Hinton et al. 2015, arXiv:1503.02531, section
    2).

    Its mean over images is `T^2 * torch.nn.functional.kl_div(..., reduction="batchmean")` of the logits divided by T.
    """
    ours, theirs = (jax.nn.log_softmax(x / temperature) for x in (logits, wanted))
    return temperature**2 * jnp.sum(jnp.exp(theirs) * (theirs - ours), axis=-1)


def attention_distance(maps: Float[Array, "N H W C"], wanted: Float[Array, "N H W D"]) -> Float[Array, " N"]:
    """The mean squared difference of two attention maps: where in the image a stage puts out large numbers.

    The attention of a place is the mean of the squares of its channels; a map has norm 1 (Zagoruyko & Komodakis 2017,
    arXiv:1612.03928, section 3.1, as in the authors' `at_loss`). It has no parameters, and channels need not agree.
    """

    def attention(x: Float[Array, "N H W C"]) -> Float[Array, "N P"]:
        # At least float32: the squares of float16 overflow.
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        square = jnp.mean(x**2, axis=-1).reshape(len(x), -1)
        # A root of 0 would have an infinite derivative.
        return square * jax.lax.rsqrt(jnp.maximum(jnp.sum(square**2, axis=-1, keepdims=True), SMALLEST_NORM**2))

    return jnp.mean((attention(maps) - attention(wanted)) ** 2, axis=-1)


def in_top_k(logits: Float[Array, "N K"], labels: Int[Array, " N"], k: int) -> Float[Array, " N"]:
    """1 where the label is among the k largest logits, else 0. Of equal logits the lower class number counts as larger.

    It counts larger logits and does not sort. So it also holds for ties and for fewer than k classes. A logit that is
    not a number is never a hit.
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    classes = jnp.arange(logits.shape[-1])[None]
    ahead = (logits > own) | ((logits == own) & (classes < labels[:, None]))
    return ((jnp.sum(ahead, axis=-1) < k) & ~jnp.isnan(logits).any(axis=-1)).astype(jnp.float32)
