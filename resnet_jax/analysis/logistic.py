"""Multinomial logistic regression, solved to its optimum for a whole grid of penalties at once.

The objective is that of scikit-learn's `LogisticRegression(C=...)`, so values of C, weights and predictions can be
compared: `C * (sum of the cross-entropies) + |W|^2 / 2`. The intercept is not penalised. Of two classes scikit-learn
penalises the difference of the two rows of W, and so does this.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from resnet_jax.analysis import lbfgs
from resnet_jax.errors import ConfigError, DataError
from resnet_jax.runtime.mesh import make_mesh, put_batch, replicated, split_batch

log = logging.getLogger("resnet_jax")

TOLERANCE = 1e-10
MAX_STEPS = 1000
PROBLEM_BYTES = 2**31  # of memory; problems that would need more are not all solved side by side
BLOCK = 4096  # rows whose logits are computed together


@dataclass(frozen=True)
class Fit:
    """The optima of P problems of K classes and D features.

    Attributes:
      cs: the values of C.
      classes: the labels that occur, in order; those of the columns of logits.
      weights: of the features less their `mean`.
      bias: of the logits of the mean; it adds up to 0 over the classes.
      objective: scikit-learn's, divided by C times the number of rows: the mean cross-entropy and a penalty.
      steps: of L-BFGS.
      solved: whether the optimum was reached within the steps that were allowed.
    """

    cs: tuple[float, ...]
    classes: Int[np.ndarray, " K"]
    weights: Float[np.ndarray, "P K D"]
    bias: Float[np.ndarray, "P K"]
    mean: Float[np.ndarray, " D"]
    objective: Float[np.ndarray, " P"]
    steps: Int[np.ndarray, " P"]
    solved: Bool[np.ndarray, " P"]

    @property
    def intercept(self) -> Float[np.ndarray, "P K"]:
        """The bias for features from which no mean is taken: scikit-learn's `intercept_`."""
        return self.bias - self.weights.astype(np.float64) @ self.mean.astype(np.float64)

    def logits(self, features: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "P N K"]:
        """The logits that each of the problems gives these features."""
        problems, classes, width = self.weights.shape
        columns = self.weights.reshape(-1, width).T
        blocks = [
            (np.asarray(features[start : start + BLOCK], self.mean.dtype) - self.mean) @ columns
            for start in range(0, len(features), BLOCK)
        ]
        logits = np.concatenate(blocks).reshape(-1, problems, classes) + self.bias
        return np.moveaxis(logits, 1, 0)

    def predict(self, features: Float[np.ndarray, "N D"]) -> Int[np.ndarray, "P N"]:
        """The label that each of the problems gives these features."""
        return self.classes[np.argmax(self.logits(features), axis=-1)]


def fit(
    features: Float[np.ndarray, "N D"],
    labels: Int[np.ndarray, " N"],
    cs: Sequence[float],
    *,
    mesh: Mesh | None = None,
    tolerance: float = TOLERANCE,
    max_steps: int = MAX_STEPS,
) -> Fit:
    """Solves logistic regression for each value of C. The rows are spread over the devices, and lie there whole.

    Args:
      features: of any floating type; they are computed with in float32, or in float64 if they are float64 and JAX's
        `enable_x64` is on. They may be mapped from a file.
      cs: values of C; small ones penalise more.
      mesh: the devices of this process; None = all. The result is the same on any number of them, but for rounding.
      tolerance: a problem is solved when less than this part of its objective can still be gained.

    Raises:
      ConfigError: a C that is not a positive number.
      DataError: features that are not finite, or fewer than two classes.
    """
    if not len(cs) or not all(0 < c < np.inf for c in cs):
        raise ConfigError(f"C = {list(cs)}: logistic regression needs at least one value, all positive; correct them")
    check_finite(features, "the features")
    check_classes(labels)
    classes, places = np.unique(labels, return_inverse=True)
    mesh = mesh or make_mesh()
    mean = features.mean(axis=0, dtype=np.float64)
    # JAX makes float32 of float64 unless it is told not to.
    dtype = np.dtype(jax.dtypes.canonicalize_dtype(np.promote_types(features.dtype, np.float32)))
    count = len(labels)
    padded = -(-count // mesh.size) * mesh.size
    rows = np.zeros((padded, features.shape[1]), dtype)
    np.subtract(features, mean, out=rows[:count], casting="same_kind")
    hot = np.zeros((padded, len(classes)), dtype)
    hot[np.arange(count), places] = 1
    hot[count:, 0] = 1  # a row of padding needs a class too; its weight is 0
    weight = np.where(np.arange(padded) < count, 1 / count, 0).astype(dtype)
    put = put_batch({"rows": rows, "hot": hot, "weight": weight}, split_batch(mesh))
    # Of two classes W[0] = -W[1], whose squares are a half of the square of the difference.
    penalty = (2 if len(classes) == 2 else 1) / (np.asarray(cs, np.float64) * count)
    together = _at_once(len(cs), hot, features.shape[1])
    parts = []
    for start in range(0, len(cs), together):
        part = jax.device_put(jnp.asarray(penalty[start : start + together], dtype), replicated(mesh))
        state = lbfgs.minimise(lbfgs.Problems(**put, penalty=part), tolerance, max_steps)
        parts.append(jax.device_get((state.theta, state.value, state.taken, state.done)))
    theta, value, steps, solved = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if not solved.all():
        unsolved = ", ".join(f"{c:g}" for c, ok in zip(cs, solved, strict=True) if not ok)
        log.warning("logistic regression with C = %s has not reached its optimum after %d steps", unsolved, max_steps)
    return Fit(
        tuple(map(float, cs)), classes, theta[..., :-1], theta[..., -1], mean.astype(dtype), value, steps, solved
    )


def check_classes(labels: Int[np.ndarray, " N"]) -> None:
    """Raises a DataError where there are images of fewer than two classes."""
    classes = len(np.unique(labels))
    if classes < 2:
        raise DataError(
            f"{len(labels)} images of {classes} class{'es' * (classes != 1)} are no task for a classifier; choose a "
            "data set with images of at least two classes"
        )


def check_finite(features: Float[np.ndarray, "N ..."], what: str) -> None:
    """Raises a DataError that says how many rows of `features` hold a number that is not finite, and the first."""
    bad = [
        start + place
        for start in range(0, len(features), BLOCK)
        for place in np.flatnonzero(~np.isfinite(_flat(features[start : start + BLOCK])).all(axis=1))
    ]
    if bad:
        raise DataError(
            f"{what} of {len(bad)} of {len(features)} images, the first of them image {bad[0]}, are not finite "
            "(infinite or not a number); a network gives such features where its weights are not finite, or where they "
            "overflow: see that it was trained well, and keep features as float32"
        )


def _flat(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(len(rows), -1)


def _at_once(problems: int, hot: np.ndarray, width: int) -> int:
    """How many problems are solved side by side: all, or equal parts of them."""
    # About eight arrays like the logits, and two histories of weights.
    each = hot.itemsize * hot.shape[1] * (8 * len(hot) + 2 * lbfgs.HISTORY * (width + 1))
    parts = -(-problems // max(1, PROBLEM_BYTES // each))
    return -(-problems // parts)
