"""Patches of images: what the stages of a network put out around every place of a map."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PyTree, UInt8

from resnet_jax.analysis.attention.heat import check_pixels
from resnet_jax.analysis.features import rows_of, stages_of
from resnet_jax.analysis.images import images_of
from resnet_jax.config import Preset
from resnet_jax.data import Source, normalize
from resnet_jax.errors import ConfigError, DataError
from resnet_jax.models import ResNet
from resnet_jax.run.network import Network

Batches = Callable[[], Iterator[UInt8[np.ndarray, "N S S C"]]]
"""Gives the same batches of images each time that it is called."""


def batches_of(source: Source, preset: Preset, places: Sequence[int] | Int[np.ndarray, " n"], size: int) -> Batches:
    """The images at these places of a source, as the network sees them, a batch at a time."""
    return lambda: (images_of(source, preset, places[start : start + size]) for start in range(0, len(places), size))


def usual_stages(network: Network) -> tuple[str, ...]:
    """The middle stages: neither the first of four, which sees edges, nor the last, which sees classes of its data."""
    stages = [name for name in stages_of(network) if name.startswith("stage")]
    return tuple(stages[1:-1] if len(stages) > 3 else stages[:-1] or stages)


def check_stages(network: Network, stages: Sequence[str]) -> None:
    """Raises a ConfigError for a stage that the network lacks, and for `pooled` or `logits` beside others."""
    rows = rows_of(network, stages, maps=True, dtype="float32")
    if len(stages) > 1 and (flat := [stage for stage, (shape, _) in rows.items() if len(shape) != 3]):
        raise ConfigError(f"{flat[0]} is no map, and cannot be joined to others; name it alone, or leave it out")


def patches(network: Network, batches: Batches, stages: Sequence[str]) -> Iterator[Float[np.ndarray, "N H W D"]]:
    """The patches of each batch of images.

    As in PatchCore (Roth et al. 2022, arXiv:2106.08265, section 3.1): the mean over the 3x3 places around every place
    of a map, where what lies outside counts as 0; maps of later stages enlarged (bilinear) to the largest, and all
    channels side by side. A stage without a map, such as `pooled`, gives one patch.

    The first batch is the largest. Smaller ones are filled up, so that there is one program.

    Raises:
      DataError: images are not as the network sees them, or features are not finite.
    """
    size = seen = 0
    for images in batches():
        check_pixels(network, images)
        size = size or len(images)
        padded = np.pad(images, [(0, size - len(images)), (0, 0), (0, 0), (0, 0)])
        found = _patches(network.model, network.preset, network.variables, padded, stages=tuple(stages))
        real = np.asarray(found)[: len(images)]
        if len(bad := np.flatnonzero(~np.isfinite(real).all(axis=(1, 2, 3)))):
            raise DataError(
                f"the features of image {seen + bad[0]} are not finite (infinite or not a number), and nothing can be "
                "compared with them; see that the network was trained well"
            )
        seen += len(images)
        yield real


@partial(jax.jit, static_argnames=("model", "preset", "stages"))
def _patches(
    model: ResNet,
    preset: Preset,
    variables: PyTree[Array],
    images: UInt8[Array, "N S S C"],
    *,
    stages: tuple[str, ...],
) -> Float[Array, "N H W D"]:
    out = model.apply(variables, normalize(images, preset), train=False, features=True)
    maps = [out[stage].astype(jnp.float32) for stage in stages]
    if maps[0].ndim == 2:
        return maps[0][:, None, None, :]
    height, width = (max(x.shape[axis] for x in maps) for axis in (1, 2))
    smooth = [lax.reduce_window(x, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME") / 9 for x in maps]
    return jnp.concatenate(
        [jax.image.resize(x, (len(x), height, width, x.shape[-1]), "bilinear", antialias=False) for x in smooth],
        axis=-1,
    )
