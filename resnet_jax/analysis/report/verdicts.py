"""What a network says of every image of a split, from the features that are kept of it."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from resnet_jax.tasks.classify.measure import count, report_in_detail
from resnet_jax.tasks.classify.report import EvalReport

BLOCK = 4096  # images whose logits are looked at together


@dataclass(frozen=True)
class Verdicts:
    """What a network says of N images.

    Attributes:
      labels: the true classes, as the network numbers them.
      predicted: the most probable classes.
      confidence: their probabilities.
      probability: of the true classes.
      report: the counts of an evaluation.
    """

    labels: Int[np.ndarray, " N"]
    predicted: Int[np.ndarray, " N"]
    confidence: Float[np.ndarray, " N"]
    probability: Float[np.ndarray, " N"]
    report: EvalReport

    def worst(self, most: int) -> Int[np.ndarray, " n"]:
        """The images whose true class is least probable, among those where the network is wrong; the worst first."""
        wrong = np.flatnonzero(self.predicted != self.labels)
        return wrong[np.argsort(self.probability[wrong], kind="stable")][:most]


def verdicts(logits: Float[np.ndarray, "N K"], labels: Int[np.ndarray, " N"]) -> Verdicts:
    """The same numbers as an evaluation has, from the logits of all images.

    Args:
      logits: may be mapped into memory; they are read in blocks.
    """
    sums: dict[str, np.ndarray | np.float64] = {"count": np.float64(len(labels))}
    rows = []
    for start in range(0, len(labels), BLOCK):
        here = labels[start : start + BLOCK]
        counted, *of_images = jax.device_get(_look(jnp.asarray(logits[start : start + BLOCK]), jnp.asarray(here)))
        for name, value in counted.items():
            sums[name] = sums.get(name, 0) + value.astype(np.float64)
        rows.append(of_images)
    predicted, confidence, probability = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    return Verdicts(labels, predicted, confidence, probability, report_in_detail(sums, {}))  # type: ignore[arg-type]


@jax.jit
def _look(logits: Float[jax.Array, "n K"], labels: Int[jax.Array, " n"]) -> tuple:
    shares = jax.nn.softmax(logits.astype(jnp.float32))
    counted = count(logits, labels, jnp.ones(labels.shape, bool), in_detail=True)
    rows = jnp.arange(len(labels))
    return counted, jnp.argmax(logits, axis=-1), jnp.max(shares, axis=-1), shares[rows, labels]
