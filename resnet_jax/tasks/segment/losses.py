"""Losses of logits and masks. Each gives a sum for each image, and the weight by which the sums are to be divided.

N images of H x W pixels and K classes. A pixel whose class is not in 0..K-1 is ignored: it adds nothing to the sum, and
nothing to the weight. So a mean over images of very unequal weights does not depend on how the images are spread over
devices.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Logits = Float[Array, "N H W K"]
Masks = Int[Array, "N H W"]
PerImage = Float[Array, " N"]

IGNORED = 255
"""The value of a pixel without a class, in the files of Pascal VOC and others."""


def valid(masks: Masks, classes: int) -> Bool[Array, "N H W"]:
    """The pixels that have a class."""
    return (masks >= 0) & (masks < classes)


def cross_entropy(logits: Logits, masks: Masks, class_weights: Sequence[float] = ()) -> tuple[PerImage, PerImage]:
    """The sum over the pixels, and their number; with class weights, both weighted.

    The quotient over a batch is `torch.nn.CrossEntropyLoss(weight, ignore_index=255)`.
    """
    weights = pixel_weights(masks, logits.shape[-1], class_weights)
    return jnp.sum(_surprise(logits, masks) * weights, axis=(1, 2)), jnp.sum(weights, axis=(1, 2))


def focal(
    logits: Logits, masks: Masks, class_weights: Sequence[float] = (), *, gamma: float
) -> tuple[PerImage, PerImage]:
    """As `cross_entropy`, each pixel times `(1 - p)^gamma`, where p is the probability of its class (Lin et al. 2017,
    arXiv:1708.02002, equation 4)."""
    weights = pixel_weights(masks, logits.shape[-1], class_weights)
    surprise = _surprise(logits, masks)
    missed = -jnp.expm1(-surprise)  # 1 - p
    # At p = 1 the derivative of a power below 1 is infinite.
    factor = jnp.where(missed > 0, jnp.where(missed > 0, missed, 1) ** gamma, 0)
    return jnp.sum(surprise * factor * weights, axis=(1, 2)), jnp.sum(weights, axis=(1, 2))


def dice(logits: Logits, masks: Masks) -> tuple[PerImage, PerImage]:
    """The Dice loss of each image times the number of its pixels, and that number.

    The loss of an image is the mean of `1 - 2 I / (P + T)` over the classes that it has: I is the sum of the
    probabilities of a class over its pixels, P over all pixels, T is the number of its pixels (Milletari et al. 2016,
    arXiv:1606.04797, for several classes as in segmentation_models_pytorch's `DiceLoss`, which takes a whole batch for
    one image).
    """
    classes = logits.shape[-1]
    real = valid(masks, classes)[..., None]
    shares = jnp.where(real, jax.nn.softmax(logits), 0)
    hot = jnp.where(real, jax.nn.one_hot(masks, classes, dtype=logits.dtype), 0)
    inside, present = jnp.sum(shares * hot, axis=(1, 2)), jnp.sum(hot, axis=(1, 2))
    both = jnp.sum(shares, axis=(1, 2)) + present
    of_class = jnp.where(present > 0, 1 - 2 * inside / jnp.where(both > 0, both, 1), 0)
    number = jnp.sum(present > 0, axis=-1)
    pixels = jnp.sum(real, axis=(1, 2, 3)).astype(logits.dtype)
    return pixels * jnp.sum(of_class, axis=-1) / jnp.maximum(number, 1).astype(logits.dtype), pixels


def pixel_weights(masks: Masks, classes: int, class_weights: Sequence[float]) -> Float[Array, "N H W"]:
    """0 for a pixel that is ignored; else 1, or the weight of its class."""
    real = valid(masks, classes)
    if not class_weights:
        return real.astype(jnp.float32)
    return jnp.where(real, jnp.asarray(class_weights, jnp.float32)[jnp.where(real, masks, 0)], 0)


def _surprise(logits: Logits, masks: Masks) -> Float[Array, "N H W"]:
    """Minus the logarithm of the probability of each pixel's class; 0 for a pixel that is ignored."""
    # A one-hot product, not a gather: a TPU computes it together with the softmax.
    hot = jax.nn.one_hot(masks, logits.shape[-1], dtype=logits.dtype)
    own = jnp.sum(logits * hot, axis=-1)
    return jnp.where(valid(masks, logits.shape[-1]), jax.nn.logsumexp(logits, axis=-1) - own, 0)
