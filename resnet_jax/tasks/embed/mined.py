"""Losses that compare the embeddings of a batch with each other. The batch holds several images of each identity."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from resnet_jax.tasks.embed.centres import unit


def triplet_loss(
    points: Float[Array, "N E"], labels: Int[Array, " N"], margin: float
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """For each example, the farthest of its class must be nearer than the nearest of another class, by `margin` in
    squared distance of unit vectors (FaceNet, Schroff et al. 2015, arXiv:1503.03832; batch-hard mining, Hermans et al.
    2017, arXiv:1703.07737, equation 5).

    Returns:
      The loss, and a weight: 0 for an example without another of its class, or without one of another class.
    """
    squares = _squared_distances(unit(points))
    same = labels[:, None] == labels[None]
    partner = same & ~jnp.eye(len(labels), dtype=bool)
    counts = partner.any(axis=1) & ~same.all(axis=1)
    farthest = jnp.max(jnp.where(partner, squares, -jnp.inf), axis=1, where=counts[:, None], initial=0.0)
    nearest = jnp.min(jnp.where(same, jnp.inf, squares), axis=1, where=counts[:, None], initial=jnp.inf)
    losses = jnp.where(counts, jax.nn.relu(farthest - jnp.where(counts, nearest, 0.0) + margin), 0.0)
    return losses, counts.astype(points.dtype)


def contrastive_loss(
    points: Float[Array, "N E"], labels: Int[Array, " N"], temperature: float
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """The supervised contrastive loss (Khosla et al. 2020, arXiv:2004.11362, equation 2, `L_out`): the mean over the
    others of its class of the cross entropy against all other examples.

    Returns:
      The loss, and a weight: 0 for an example without another of its class.
    """
    near = unit(points)
    logits = jnp.matmul(near, near.T, precision="highest") / temperature
    itself = jnp.eye(len(labels), dtype=bool)
    partner = (labels[:, None] == labels[None]) & ~itself
    total = jax.nn.logsumexp(jnp.where(itself, -jnp.inf, logits), axis=1, keepdims=True)
    number = partner.sum(axis=1)
    losses = jnp.sum(jnp.where(partner, total - logits, 0.0), axis=1) / jnp.maximum(number, 1)
    return losses, (number > 0).astype(points.dtype)


def _squared_distances(points: Float[Array, "N E"]) -> Float[Array, "N N"]:
    return jnp.maximum(2 - 2 * jnp.matmul(points, points.T, precision="highest"), 0.0)
