"""The loss of every task whose networks name classes. Targets may be mixtures of classes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from resnet_jax.tasks.task import Prepare
from resnet_jax.training.accumulate import Batch
from resnet_jax.training.losses import cross_entropy, in_top_k
from resnet_jax.training.step import Loss, Losses

OfLogits = Callable[[Float[Array, "N K"], Float[Array, "N K"]], Float[Array, " N"]]
"""`(logits, targets) -> the loss of each example`."""


def loss_of_classes(
    model: Any,
    prepare: Prepare,
    seen_by: Callable[[Batch], tuple[Array, ...]],
    of_logits: OfLogits = cross_entropy,
) -> Loss:
    """Returns the loss of a part of a batch. Its metric `top1` says how often the class with the largest target is
    predicted.

    Args:
      prepare: gives what the network sees, and `target` (N, K), a distribution over the classes for each example.
      seen_by: what the network is called with, from a prepared batch.
      of_logits: what is minimised.
    """

    def loss(
        params: PyTree[Array], batch_stats: PyTree[Array], batch: Batch, key: Key[Array, ""], axis: str | None
    ) -> Losses:
        seen = prepare(key, batch)
        net = model.on_axis(axis) if axis else model
        logits, updates = net.apply(
            {"params": params, "batch_stats": batch_stats},
            *seen_by(seen),
            train=True,
            positions=seen["position"],
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.fold_in(key, 1)},  # a key of its own: `prepare` draws from `key` itself
        )
        top1 = in_top_k(logits, jnp.argmax(seen["target"], axis=-1), 1)
        statistics = updates.get("batch_stats", {})
        return Losses(of_logits(logits, seen["target"]), {"top1": top1}, statistics)

    return loss
