"""Exact evaluation: every image counts once, on any number of devices and hosts."""

from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree, UInt8

from resnet_jax.models import ResNet
from resnet_jax.training.losses import cross_entropy, in_top_k
from resnet_jax.training.mesh import put_batch, replicated, split_batch

Normalize = Callable[[UInt8[Array, "N H W C"]], Float[Array, "N H W C"]]
Evaluate = Callable[[PyTree[Array]], dict[str, float]]


def make_evaluate(
    model: ResNet,
    normalize: Normalize,
    mesh: Mesh,
    batches: Callable[[], Iterable[Mapping[str, np.ndarray]]],
    *,
    count: int,
) -> Evaluate:
    """Returns `variables -> {"loss", "top1", "top5", "count"}`: means over all images, accuracies as fractions.

    Args:
      batches: called for each evaluation; gives this host's rows of `image`, `label` and `weight` (1 real, 0 padding).
      count: how many images there are. The report's `count` is what was really seen, and must equal it.

    Raises:
      RuntimeError: from the returned function, where the images seen are not `count`: a bug, not a user's mistake.
    """

    def eval_step(variables: PyTree[Array], batch: dict[str, Array]) -> dict[str, Array]:
        logits = model.apply(variables, normalize(batch["image"]), train=False)
        per_image = {
            "loss": cross_entropy(logits, batch["label"]),
            "top1": in_top_k(logits, batch["label"], 1),
            "top5": in_top_k(logits, batch["label"], 5),
            "count": jnp.ones_like(batch["weight"]),
        }
        # where, not a product: a padded row may hold anything, and 0 * nan is nan.
        return {name: jnp.sum(jnp.where(batch["weight"] > 0, x, 0)) for name, x in per_image.items()}

    sharding = split_batch(mesh)
    step = jax.jit(eval_step, in_shardings=(replicated(mesh), sharding), out_shardings=replicated(mesh))

    def evaluate(variables: PyTree[Array]) -> dict[str, float]:
        sums = jax.device_get([step(variables, put_batch(batch, sharding)) for batch in batches()])
        # Sums of one batch are exact in float32; their total is taken in float64.
        totals = {name: float(np.sum([batch[name] for batch in sums], dtype=np.float64)) for name in sums[0]}
        seen = round(totals.pop("count"))
        if seen != count:
            raise RuntimeError(f"evaluation saw {seen} images of {count}: the batches are wrong")
        return {name: total / count for name, total in totals.items()} | {"count": count}

    return evaluate
