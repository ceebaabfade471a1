"""How alike the stages of two networks are: linear CKA, without bias, in batches.

Centred kernel alignment (Kornblith et al. 2019, arXiv:1905.00414) compares the inner products between images in one
stage with those in another. It does not change if the features of a stage are rotated or scaled. HSIC is estimated
without bias (Song et al. 2012, "Feature Selection via Dependence Maximization", equation 5): with the usual estimate,
features that have nothing to do with each other are the more alike the more of them there are. Estimates of batches are
averaged before they are divided (Nguyen et al. 2021, arXiv:2010.15327, equation 3), so the memory is that of a batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from resnet_jax import data
from resnet_jax.analysis.features import rows_of, stages_of
from resnet_jax.config import DataConfig, Preset
from resnet_jax.data import normalize
from resnet_jax.data.fills import Draws, EvalImage, Leaves, Row
from resnet_jax.errors import ConfigError, DataError
from resnet_jax.run.evaluate import passing
from resnet_jax.run.network import Network
from resnet_jax.training.accumulate import Batch
from resnet_jax.training.evaluate import Measured, make_pass

FEWEST = 4
"""Images that the estimate of a batch needs at least: it divides by n (n - 3)."""


@dataclass(frozen=True)
class Similarity:
    """Linear CKA between stages of two networks.

    Attributes:
      first, second: the titles of the networks.
      rows, columns: stages of the first and of the second network.
      values: 1 = alike but for rotation and scale, about 0 = nothing in common.
      images, batch_size: over which it was computed.
    """

    first: str
    second: str
    data: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: Float[np.ndarray, "R C"]
    images: int
    batch_size: int


def similarity(
    first: Network,
    second: Network,
    config: DataConfig,
    split: str,
    stages: Sequence[str] = (),
    *,
    batch_size: int = 64,
    tell: Callable[[int, int], None] = lambda done, count: None,
) -> Similarity:
    """Compares stages of two networks on the images of a split. Each network prepares the images in its own way.

    Whole maps are compared: all numbers that a stage puts out for an image are its features.

    Args:
      stages: of both networks; empty = all that each has.
      batch_size: images whose inner products are compared; all batches but the last have as many, rounded up to a
        multiple of the devices. Fewer make the estimate noisier, not biased.
      tell: is told of progress: images that are compared, of how many.

    Raises:
      ConfigError: a stage that a network lacks, or a batch of fewer than four images.
      DataError: a split of fewer than four images or that cannot be read, or features without differences.
    """
    if batch_size < FEWEST:
        raise ConfigError(f"batch_size = {batch_size}: CKA compares at least {FEWEST} images at once; raise it")
    source = data.load_source(config, split)
    if text := data.missing_leaves(source, EvalImage.needs, "a comparison of networks", f"data.name = {config.name}"):
        raise ConfigError(text)
    if len(source) < FEWEST:
        raise DataError(
            f"{config.name} {split} holds {len(source)} images; CKA without bias needs at least {FEWEST}. Bring more"
        )
    rows, columns = (tuple(dict.fromkeys(stages or stages_of(network))) for network in (first, second))
    for network, of in ((first, rows), (second, columns)):
        rows_of(network, of, maps=True, dtype="float32")  # only to refuse unknown stages at once
    presets = (replace(first.preset, exif=config.exif), replace(second.preset, exif=config.exif))

    def measure(variables: tuple[PyTree[Array], PyTree[Array]], batch: Batch, real: Bool[Array, " N"]) -> Measured:
        ours = _outputs(first, variables[0], normalize(batch["image"], presets[0]), rows)
        theirs = _outputs(second, variables[1], normalize(batch["other_image"], presets[1]), columns)
        return Measured(hsic_sums(ours, theirs, real), {"done": batch["label"]})

    done = 0

    def keep(rows: Mapping[str, np.ndarray]) -> None:
        nonlocal done
        done += len(rows["done"])
        tell(done, len(source))

    compare = make_pass(measure, **passing(source, config, TwoImages(presets), batch_size), keep=keep)
    sums, _ = compare((first.variables, second.variables))
    return Similarity(
        first=first.title,
        second=second.title,
        data=f"{config.name} {split}",
        rows=rows,
        columns=columns,
        values=_divide(sums, ((first.title, rows), (second.title, columns))),
        images=len(source),
        batch_size=batch_size,
    )


def _outputs(network: Network, variables: PyTree[Array], images: Array, stages: Sequence[str]) -> list[Array]:
    out = network.model.apply(variables, images, train=False, features=True)
    return [out[stage] for stage in stages]


def hsic_sums(
    first: Sequence[Float[Array, "N ..."]], second: Sequence[Float[Array, "N ..."]], real: Bool[Array, " N"]
) -> dict[str, Float[Array, "..."]]:
    """Estimates of HSIC over one batch, without bias, times its number of images.

    Args:
      real: which images are no padding.

    Returns:
      `between` (R, C), and `first` (R,) and `second` (C,) of each stage with itself.
    """
    ours, theirs = ([_inner_products(x, real) for x in stages] for stages in (first, second))
    count = jnp.sum(real)
    factor = jnp.where(count >= FEWEST, 1 / jnp.maximum(count - 3, 1), 0)  # n / (n (n - 3))

    def hsic(a: Array, b: Array) -> Array:
        return factor * jnp.sum(a * b)

    return {
        "between": jnp.stack([jnp.stack([hsic(a, b) for b in theirs]) for a in ours]),
        "first": jnp.stack([hsic(a, a) for a in ours]),
        "second": jnp.stack([hsic(b, b) for b in theirs]),
    }


def _inner_products(x: Float[Array, "N ..."], real: Bool[Array, " N"]) -> Float[Array, "N N"]:
    """The U-centred Gram matrix of the real images (Szekely and Rizzo 2014): its diagonal is 0, and so are the sums of
    its rows. The sum of the products of two of them is n (n - 3) times Song's estimate."""
    rows = x.reshape(len(x), -1).astype(jnp.promote_types(x.dtype, jnp.float32))
    count = jnp.sum(real)
    rows = jnp.where(real[:, None], rows, 0)
    # The mean changes nothing in the result, but inner products would be large, and their rounding errors too.
    mean = jnp.sum(rows, axis=0, keepdims=True) / count
    equal = jnp.abs(rows - mean) <= 8 * jnp.finfo(rows.dtype).eps * jnp.abs(mean)  # but for rounding
    rows = jnp.where(real[:, None] & ~equal, rows - mean, 0)
    gram = jnp.einsum("nd,md->nm", rows, rows, precision="highest")
    others = real[:, None] & real[None] & ~jnp.eye(len(x), dtype=bool)
    gram = jnp.where(others, gram, 0)
    sums = jnp.sum(gram, axis=1) / jnp.maximum(count - 2, 1)
    total = jnp.sum(sums) / jnp.maximum(count - 1, 1)
    return jnp.where(others, gram - sums[:, None] - sums[None] + total, 0)


def _divide(sums: Mapping[str, np.ndarray], networks: Sequence[tuple[str, Sequence[str]]]) -> Float[np.ndarray, "R C"]:
    for own, (title, stages) in zip((sums["first"], sums["second"]), networks, strict=True):
        for value, stage in zip(own, stages, strict=True):
            if not np.isfinite(value):
                what = "are not finite, or too large to be compared"
            elif value <= 0:
                what = "are the same for all images, so they are like nothing else"
            else:
                continue
            raise DataError(
                f"the features of {stage} of {title} {what}; see that the network was trained well, or leave the stage "
                "out (--stages)"
            )
    return sums["between"] / np.sqrt(np.outer(sums["first"], sums["second"]))


@dataclass(frozen=True)
class TwoImages:
    """Writes an image twice, as each of two networks wants it: `image` and `other_image` uint8, and `label`."""

    presets: tuple[Preset, Preset]
    needs = EvalImage.needs

    @property
    def leaves(self) -> Leaves:
        first, second = (EvalImage(preset).leaves for preset in self.presets)
        return {**first, "other_image": second["image"]}

    def __call__(self, example: Mapping[str, Any], draws: Draws, row: Row) -> None:
        for preset, leaf in zip(self.presets, ("image", "other_image"), strict=True):
            EvalImage(preset)(example, draws, {"image": row[leaf], "label": row["label"]})
