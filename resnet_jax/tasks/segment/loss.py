"""The loss of a segmentation network: of its logits, and of those of its auxiliary head."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from resnet_jax.config import Segment
from resnet_jax.tasks.segment.losses import Logits, Masks, PerImage, cross_entropy, dice, focal, pixel_weights
from resnet_jax.tasks.task import Distance, Prepare
from resnet_jax.training.accumulate import Batch
from resnet_jax.training.losses import divergence
from resnet_jax.training.step import Loss, Losses

OfLogits = Callable[[Logits, Masks], tuple[PerImage, PerImage]]


def make_loss(model: Any, prepare: Prepare, options: Segment) -> Loss:
    """Returns the loss of a part of a batch, in which each pixel with a class counts as much as any other.

    Its metric `pixel_accuracy` says on which share of these pixels the network is right.

    Args:
      model: a network of `models.segment`.
      prepare: gives `image`, normalised, and `mask`.
    """
    of_logits = loss_of_logits(options)

    def loss(
        params: PyTree[Array], batch_stats: PyTree[Array], batch: Batch, key: Key[Array, ""], axis: str | None
    ) -> Losses:
        seen = prepare(key, batch)
        net = model.on_axis(axis) if axis else model
        out, updates = net.apply(
            {"params": params, "batch_stats": batch_stats},
            seen["image"],
            train=True,
            positions=seen["position"],
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.fold_in(key, 1)},  # a key of its own: `prepare` draws from `key` itself
        )
        masks = seen["mask"].astype(jnp.int32)
        total, weight = of_logits(out["out"], masks)
        if "aux" in out:
            total = total + options.aux_weight * of_logits(out["aux"], masks)[0]
        weights = pixel_weights(masks, out["out"].shape[-1], options.class_weights)
        right = jnp.sum((jnp.argmax(out["out"], axis=-1) == masks) * weights, axis=(1, 2))
        return Losses(total, {"pixel_accuracy": right}, updates.get("batch_stats", {}), weight)

    return loss


def loss_of_logits(options: Segment) -> OfLogits:
    """The sums and the weights of a batch's images, by the loss that the options name."""
    of_pixels: OfLogits = partial(cross_entropy, class_weights=options.class_weights)
    if options.loss == "focal":
        of_pixels = partial(focal, class_weights=options.class_weights, gamma=options.focal_gamma)
    if options.loss == "dice":
        return dice
    if options.loss == "cross_entropy+dice":
        return lambda logits, masks: _together(of_pixels(logits, masks), dice(logits, masks))
    return of_pixels


def make_distance(options: Segment) -> Distance:
    """Returns how far the classes of the pixels are from a teacher's: the sum over the pixels that have a class in the
    mask, each weighted as in the loss. The auxiliary head has no part in it."""

    def distance(out: dict[str, Logits], wanted: dict[str, Logits], batch: Batch, temperature: float) -> PerImage:
        masks = batch["mask"].astype(jnp.int32)
        weights = pixel_weights(masks, out["out"].shape[-1], options.class_weights)
        return jnp.sum(divergence(out["out"], wanted["out"], temperature) * weights, axis=(1, 2))

    return distance


def _together(first: tuple[PerImage, PerImage], second: tuple[PerImage, PerImage]) -> tuple[PerImage, PerImage]:
    """The sum of two losses. Both must have the same weights."""
    return first[0] + second[0], first[1]
