"""Integrated gradients: what every pixel adds to the logit of a class, on the way from an empty image."""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PyTree, UInt8

from resnet_jax.analysis.attention.gradcam import predicted
from resnet_jax.analysis.attention.heat import Classes, Heat, Images, check_classes, check_images, in_batches, to_unit
from resnet_jax.config import Preset
from resnet_jax.data import normalize
from resnet_jax.errors import ConfigError
from resnet_jax.models import ResNet
from resnet_jax.run.network import Network

STEPS = 64
BATCH = 16
HOT = 99.0  # percentile of a map that is drawn as the hottest: a few pixels stand out, and would leave the rest dark

Baseline = Literal["black", "mean", "white"]


class Integrated(NamedTuple):
    """What pixels add to a logit. The sum over an image tends to `difference` as steps are added.

    Attributes:
      attributions: of every channel of every pixel.
      difference: the logit of the image less that of the baseline.
    """

    attributions: Float[np.ndarray, "N S S C"]
    difference: Float[np.ndarray, " N"]

    @property
    def gap(self) -> Float[np.ndarray, " N"]:
        """What the sum of the attributions misses, as a share of the difference."""
        total = self.attributions.sum(axis=(1, 2, 3), dtype=np.float64)
        return np.abs(total - self.difference) / np.maximum(np.abs(self.difference), 1e-12)

    @property
    def heat(self) -> Heat:
        """What speaks for the class, between 0 and 1: attributions added over channels, without negative ones."""
        maps = np.maximum(self.attributions.sum(axis=-1), 0)
        return np.asarray(to_unit(np.minimum(maps, np.percentile(maps, HOT, axis=(1, 2), keepdims=True))))


def integrated_gradients(
    network: Network,
    images: Images,
    classes: Classes | None = None,
    *,
    baseline: Baseline = "black",
    steps: int = STEPS,
    batch_size: int = BATCH,
) -> Integrated:
    """Gradients of a class's logit, integrated from a baseline to each image (Sundararajan et al. 2017,
    arXiv:1703.01365, equation 3; here by the midpoint rule).

    Args:
      images, classes: as of `grad_cam`.
      baseline: the empty image. Pixels that are equal to it get 0: choose one that the object does not have.
      steps: gradients that are added up.

    Raises:
      ConfigError: a class that the network lacks, an unknown baseline, or no step.
      DataError: no image, or images of other channels than the network's.
    """
    check_images(network, images)
    if steps < 1:
        raise ConfigError(f"integrated gradients of {steps} steps are none; take at least 1, such as {STEPS}")
    empty = {"black": 0.0, "white": 1.0, "mean": np.asarray(network.preset.mean)}
    if baseline not in empty:
        raise ConfigError(f"unknown baseline {baseline!r}; choose {', '.join(empty)}")
    start = (empty[baseline] - np.asarray(network.preset.mean)) / np.asarray(network.preset.std)
    classes = predicted(network, images, batch_size) if classes is None else classes
    classes = check_classes(network, classes, len(images))

    def compute(batch: Images, of: Classes) -> tuple[Array, Array]:
        given = (network.variables, batch, of, start.astype(np.float32))
        return _integrate(network.model, network.preset, *given, steps)

    return Integrated(*in_batches(compute, images, classes, batch_size))


@partial(jax.jit, static_argnames=("model", "preset"))
def _integrate(
    model: ResNet,
    preset: Preset,
    variables: PyTree[Array],
    images: UInt8[Array, "N S S C"],
    classes: Int[Array, " N"],
    start: Float[Array, " C"],
    steps: int,
) -> tuple[Float[Array, "N S S C"], Float[Array, " N"]]:
    x = normalize(images, preset)
    empty = jnp.broadcast_to(start[None, None, None], x.shape)

    def logits(of: Float[Array, "N S S C"]) -> Float[Array, " N"]:
        return model.apply(variables, of, train=False)[jnp.arange(len(of)), classes]

    def step(number: Array, total: Array) -> Array:
        at = empty + (number + 0.5) / steps * (x - empty)
        return total + jax.grad(lambda of: jnp.sum(logits(of)))(at)

    total = lax.fori_loop(0, steps, step, jnp.zeros_like(x))
    return (x - empty) * total / steps, logits(x) - logits(empty)
