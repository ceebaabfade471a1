"""What is kept of every example, its embedding, and what is reported of a split."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from resnet_jax.errors import DataError
from resnet_jax.logs.shown import Shown
from resnet_jax.models.embed.network import Embedder
from resnet_jax.tasks.embed.centres import unit
from resnet_jax.tasks.embed.loss import without_own
from resnet_jax.tasks.embed.verification import (
    FALSE_ACCEPT_RATES,
    FOLDS,
    Curve,
    curve,
    draw_pairs,
    identification,
    looked_at,
    ten_folds,
)
from resnet_jax.tasks.task import Prepare
from resnet_jax.training.accumulate import Batch
from resnet_jax.training.evaluate import Measure, Measured, Rows, Sums

BEST = "accuracy"
NAMES = {
    "accuracy": Shown("verification", "{:.2%}", "verification accuracy, ten folds"),
    "top1": Shown("top-1", "{:.2%}", "top-1 accuracy in training"),
    "rank1": Shown("rank-1", "{:.2%}", "rank-1 identification"),
    "map": Shown("mAP", "{:.2%}", "mean average precision"),
    **{f"tar_{rate:g}": Shown(f"TAR@FAR {rate:g}", "{:.2%}") for rate in FALSE_ACCEPT_RATES},
    "norm": Shown("norm", "{:.1f}", "length of embeddings in training"),
}
Embed = Callable[[PyTree[Array], Float[Array, "N H W C"]], Float[Array, "N E"]]
"""`(variables, normalised images) -> embeddings of length 1`."""


def make_embed(model: Embedder, *, flip: bool) -> Embed:
    """Returns the function by which trained networks compare images.

    Args:
      flip: add the embedding of the mirror image before the length is made 1, as insightface does.
    """

    def embed(variables: PyTree[Array], images: Float[Array, "N H W C"]) -> Float[Array, "N E"]:
        network = without_own(variables)
        look = lambda seen: model.apply(network, seen, train=False)
        return unit(look(images) + look(images[:, :, ::-1]) if flip else look(images))

    return embed


def make_measure(embed: Embed, prepare: Prepare) -> Measure:
    """Returns the function that keeps the embedding of each example, and what the data say of it."""

    def measure(variables: PyTree[Array], batch: Batch, real: Bool[Array, " N"]) -> Measured:
        seen = prepare(None, batch)
        rows: dict[str, Array] = {name: batch[name] for name in ("label", "same") if name in batch}
        rows["embedding"] = embed(variables, seen["image"]).astype(jnp.float32)
        return Measured({}, rows)

    return measure


class Verified(NamedTuple):
    """How well identities of a split are told apart.

    Attributes:
      numbers: `accuracy` over ten folds and its `deviation`; `loss`, the equal error rate; `tar_...`, the share of
        pairs of one identity that are accepted at a rate of false accepts, where the set has pairs enough; and for a
        set with labels `rank1` and `map`.
      curve: of all pairs; the ten folds of a set with labels are of some.
      scores, same: the cosines of all pairs, and whether they are of one identity.
      images: that were compared.
    """

    numbers: dict[str, float]
    curve: Curve
    scores: Float[np.ndarray, " P"]
    same: Bool[np.ndarray, " P"]
    images: int


def report(sums: Sums, rows: Rows) -> dict[str, float]:
    """The numbers of a split, see `Verified`. Raises as `verified` does."""
    return verified(rows).numbers


def verified(rows: Rows) -> Verified:
    """The numbers of a split, and what they are of.

    Args:
      rows: `embedding`, of length 1, and `label` or `same`.

    Raises:
      DataError: embeddings that are not finite, or too few pairs of one kind.
    """
    embeddings = finite(rows)
    every, kinds = every_pair(rows)
    everything = curve(every, kinds)
    found: dict[str, Any] = {}
    if "same" in rows:
        scores, same = every, kinds
    else:
        kept = looked_at(rows["label"])
        labels, embeddings = rows["label"][kept], embeddings[kept]
        pairs, same = draw_pairs(labels)
        scores = np.sum(embeddings[pairs[:, 0]] * embeddings[pairs[:, 1]], axis=1)
        found["rank1"], found["map"] = identification(embeddings, labels)
    accuracy, deviation = ten_folds(scores, same)
    rates = {f"tar_{rate:g}": at[0] for rate in FALSE_ACCEPT_RATES if (at := everything.at(rate))}
    numbers = {"loss": everything.equal_error, "accuracy": accuracy, "deviation": deviation, **rates, **found}
    return Verified(numbers, everything, every, kinds, len(embeddings))


def finite(rows: Rows) -> Float[np.ndarray, "N E"]:
    """The embeddings of a split in float64, if all are finite.

    Raises:
      DataError: some are not.
    """
    embeddings = np.asarray(rows["embedding"], np.float64)
    if bad := int(np.sum(~np.isfinite(embeddings).all(axis=1))):
        raise DataError(
            f"{bad} of {len(embeddings)} embeddings are not finite; training may have diverged. Use an earlier "
            "checkpoint, or a smaller learning rate"
        )
    return embeddings


def every_pair(rows: Rows) -> tuple[Float[np.ndarray, " P"], Bool[np.ndarray, " P"]]:
    """The cosines of all pairs of a split that are compared, and whether they are of one identity.

    Raises:
      DataError: embeddings that are not finite, or too few pairs of one kind.
    """
    embeddings = finite(rows)
    if "same" in rows:  # examples 2i and 2i + 1 are a pair
        scores, same = np.sum(embeddings[::2] * embeddings[1::2], axis=1), np.asarray(rows["same"][::2], bool)
    else:
        kept = looked_at(rows["label"])
        scores, same = all_pairs(embeddings[kept], rows["label"][kept])
    if min(same.sum(), (~same).sum()) < FOLDS:
        raise DataError(
            f"{same.sum():,} of the {len(same):,} pairs are of one identity, and verification needs {FOLDS} pairs of "
            f"one identity and {FOLDS} of different ones; choose a split with several images of each identity"
        )
    return scores, same


def all_pairs(
    embeddings: Float[np.ndarray, "N E"], labels: np.ndarray
) -> tuple[Float[np.ndarray, " P"], Bool[np.ndarray, " P"]]:
    """The cosine of every two images, and whether they are of one identity."""
    first, second = np.triu_indices(len(labels), 1)
    return (embeddings @ embeddings.T)[first, second], labels[first] == labels[second]
