"""The loss of embeddings: from a batch and the parameters to the loss of each of its examples."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from resnet_jax.config import Embed
from resnet_jax.models.embed.network import Embedder
from resnet_jax.tasks.embed import mined
from resnet_jax.tasks.embed.centres import gathered, own_part, softmax_loss
from resnet_jax.tasks.embed.margins import Law, adaface_margin, combined_margin, quality_of
from resnet_jax.tasks.task import Prepare
from resnet_jax.training.accumulate import Batch
from resnet_jax.training.step import Loss, Losses

CENTRES, NORMS = "centres", "norms"
"""The parameters of the loss beside those of the network, and AdaFace's running statistics."""
NORM_MOMENTUM, NORM_RANGE = 0.01, (0.001, 100.0)
"""Of AdaFace, as published: how far running statistics move in a step, and the norms that count as they are."""
FIRST_NORMS = {"mean": 20.0, "std": 100.0}


def make_loss(model: Embedder, prepare: Prepare, options: Embed, *, classes: int) -> Loss:
    """Returns the loss of a part of a batch. Its metrics are `norm`, of the embedding before it is brought to length
    1, and, where there are centres, `top1`: how often the nearest centre is that of the own class.

    Args:
      prepare: gives `image`, normalised, and `label` (N,).
      classes: how many identities the centres are of.
    """

    def embed(
        params: PyTree[Array], batch_stats: PyTree[Array], seen: Batch, key: Key[Array, ""], axis: str | None
    ) -> tuple[Float[Array, "N E"], dict[str, Any]]:
        net = model.on_axis(axis) if axis else model
        network = without_own({"params": params, "batch_stats": batch_stats})
        points, updates = net.apply(
            network,
            seen["image"],
            train=True,
            positions=seen["position"],
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.fold_in(key, 1)},  # a key of its own: `prepare` draws from `key` itself
        )
        return points, updates.get("batch_stats", {})

    def of_centres(
        params: PyTree[Array], batch_stats: PyTree[Array], batch: Batch, key: Key[Array, ""], axis: str | None
    ) -> Losses:
        seen = prepare(key, batch)
        mine, statistics = embed(params, batch_stats, seen, key, axis)
        points, labels = gathered(mine), gathered(seen["label"])
        norms = jnp.linalg.norm(points, axis=-1)
        law: Law = partial(combined_margin, m1=1.0, m2=0.0, m3=0.0)
        if options.loss == "margin":
            m1, m2, m3 = options.margins
            law = partial(combined_margin, m1=m1, m2=m2, m3=m3, gradient=options.gradient)
        elif options.loss == "adaface":
            kept = _moved(batch_stats[NORMS], norms)
            law = partial(
                adaface_margin,
                quality=quality_of(jnp.clip(norms, *NORM_RANGE), kept["mean"], kept["std"]),
                margin=options.margins[1],
            )
            statistics = {**statistics, NORMS: kept}
        plain = options.loss == "softmax"
        losses, top1 = softmax_loss(
            points,
            labels,
            params[CENTRES],
            law,
            classes=classes,
            scale=1.0 if plain else options.scale,
            cosines=not plain,
            share=options.sampled_share,
            key=jax.random.fold_in(key, 2),
            precision=model.trunk.precision,
        )
        part = partial(own_part, like=mine)
        return Losses(part(losses), {"top1": part(top1), "norm": part(norms)}, statistics)

    def of_neighbours(
        params: PyTree[Array], batch_stats: PyTree[Array], batch: Batch, key: Key[Array, ""], axis: str | None
    ) -> Losses:
        seen = prepare(key, batch)
        points, statistics = embed(params, batch_stats, seen, key, axis)
        if options.loss == "triplet":
            losses, weight = mined.triplet_loss(points, seen["label"], options.triplet_margin)
        else:
            losses, weight = mined.contrastive_loss(points, seen["label"], options.temperature)
        return Losses(losses * weight, {"norm": jnp.linalg.norm(points, axis=-1) * weight}, statistics, weight)

    return of_centres if options.has_centres else of_neighbours


def without_own(variables: PyTree[Array]) -> PyTree[Array]:
    """The variables of the network, without what the loss keeps beside them."""
    return {
        name: {module: leaf for module, leaf in tree.items() if module not in (CENTRES, NORMS)}
        for name, tree in variables.items()
    }


def _moved(kept: dict[str, Array], norms: Float[Array, " N"]) -> dict[str, Array]:
    """AdaFace's running mean and deviation of the norms in the whole batch."""
    norms = jax.lax.stop_gradient(jnp.clip(norms, *NORM_RANGE))
    now = {"mean": jnp.mean(norms), "std": jnp.std(norms, ddof=1)}
    return {name: (1 - NORM_MOMENTUM) * kept[name] + NORM_MOMENTUM * value for name, value in now.items()}
