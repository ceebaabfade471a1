"""Occlusion: how much less sure a network is of a class when a part of the image is covered."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PyTree, UInt8

from resnet_jax.analysis.attention.gradcam import predicted
from resnet_jax.analysis.attention.heat import Classes, Images, check_classes, check_images, in_batches
from resnet_jax.config import Preset
from resnet_jax.data import normalize
from resnet_jax.errors import ConfigError
from resnet_jax.models import ResNet
from resnet_jax.run.network import Network

BATCH = 32


def occlusion(
    network: Network,
    images: Images,
    classes: Classes | None = None,
    *,
    window: int | None = None,
    stride: int | None = None,
    batch_size: int = BATCH,
) -> Float[np.ndarray, "N S S"]:
    """How far the log-probability of a class falls when a square is covered with the mean colour, for every pixel.

    A square slides over the image (Zeiler and Fergus 2014, arXiv:1311.2901, section 4.2). The value of a pixel is the
    mean over the squares that cover it. The paper shows probabilities. Those of a network that is sure of its class
    hardly move; their logarithms do.

    Args:
      images, classes: as of `grad_cam`.
      window: pixels of the square's side; by default a seventh of the image's, and at least 2.
      stride: pixels from a square to the next; by default half of `window`. The last square ends at the edge.

    Raises:
      ConfigError: a class that the network lacks, or a window or stride that does not fit the image.
      DataError: no image, or images of other channels than the network's.
    """
    check_images(network, images)
    side = images.shape[1]
    window = max(2, side // 7) if window is None else window
    stride = max(1, window // 2) if stride is None else stride
    if not 1 <= window <= side or stride < 1:
        raise ConfigError(
            f"a window of {window} pixels that moves by {stride} does not fit images of {side} pixels; the window must "
            f"be between 1 and {side}, the stride at least 1"
        )
    if stride > window:
        raise ConfigError(
            f"a window of {window} pixels that moves by {stride} leaves pixels out; the stride must be at most the "
            "window"
        )
    classes = predicted(network, images, batch_size) if classes is None else classes
    classes = check_classes(network, classes, len(images))
    starts = np.unique([*range(0, side - window + 1, stride), side - window])
    corners = np.stack(np.meshgrid(starts, starts, indexing="ij"), axis=-1).reshape(-1, 2)

    def compute(batch: Images, of: Classes) -> Float[Array, "N S S"]:
        return _occlude(network.model, network.preset, network.variables, batch, of, corners, window)

    return in_batches(compute, images, classes, batch_size)


@partial(jax.jit, static_argnames=("model", "preset"))
def _occlude(
    model: ResNet,
    preset: Preset,
    variables: PyTree[Array],
    images: UInt8[Array, "N S S C"],
    classes: Int[Array, " N"],
    corners: Int[Array, "P 2"],
    window: int,
) -> Float[Array, "N S S"]:
    x = normalize(images, preset)
    side = jnp.arange(x.shape[1])

    def sure(of: Float[Array, "N S S C"]) -> Float[Array, " N"]:
        return jax.nn.log_softmax(model.apply(variables, of, train=False))[jnp.arange(len(of)), classes]

    before = sure(x)

    def cover(sums: tuple[Array, Array], corner: Int[Array, " 2"]) -> tuple[tuple[Array, Array], None]:
        rows, columns = ((side >= start) & (side < start + window) for start in corner)
        square = rows[:, None] & columns[None]
        falls = before - sure(jnp.where(square[None, :, :, None], 0, x))  # 0 is the mean colour
        return (sums[0] + falls[:, None, None] * square[None], sums[1] + square), None

    start = jnp.zeros(x.shape[:3]), jnp.zeros(x.shape[1:3])
    (total, covered), _ = lax.scan(cover, start, corners)
    return total / covered[None]
