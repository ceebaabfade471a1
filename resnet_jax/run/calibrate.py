"""Quantises a network with images of the data that it was trained on."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from resnet_jax import data
from resnet_jax.compress.quantize import Quantized, quantize
from resnet_jax.config import DataConfig, Preset, QuantizeConfig
from resnet_jax.data import normalize
from resnet_jax.data.fills import Draws, Leaves, Row
from resnet_jax.data.transforms import decode, resize_and_center_crop
from resnet_jax.errors import ConfigError
from resnet_jax.run.network import Network

IMAGES = 512
"""Images for calibration."""
SEED = 0  # of the choice among the images of a split


@dataclass(frozen=True)
class Pixels:
    """Writes `image` uint8 (S, S, C), as evaluation prepares it. An example needs neither a class nor a mask."""

    preset: Preset
    needs = ("image",)

    @property
    def leaves(self) -> Leaves:
        return {"image": ((self.preset.crop, self.preset.crop, self.preset.channels), np.uint8)}

    def __call__(self, example: Mapping[str, Any], draws: Draws, row: Row) -> None:
        image = decode(example["image"], self.preset.channels, name=example["name"], exif=self.preset.exif)
        row["image"][...] = resize_and_center_crop(image, self.preset)


def calibration_batches(
    network: Network, config: DataConfig, count: int, batch_size: int
) -> Callable[[], Iterator[Float[np.ndarray, "N H W C"]]]:
    """Returns a function that gives batches of normalised images of `config.train_split`, always the same ones.

    Args:
      count: how many images, drawn from the split; all of a smaller one.

    Raises:
      ConfigError: a count below 1.
      DataError: the split or an image cannot be read.
    """
    if count < 1:
        raise ConfigError(f"images = {count} to calibrate with must be at least 1; 128 to 1024 are usual")
    side = network.preset.crop or network.preset.resize  # segmentation sees whole images: here their middle
    preset = replace(network.preset, exif=config.exif, crop=side)
    source = data.load_source(config, config.train_split)
    chosen = np.sort(np.random.default_rng(SEED).permutation(len(source))[:count])
    part = data.Subset(source, chosen.tolist())

    def batches() -> Iterator[Float[np.ndarray, "N H W C"]]:
        for batch in data.eval_batches(part, config, batch_size=min(batch_size, len(part)), fill=Pixels(preset)):
            yield np.asarray(normalize(batch["image"][batch["weight"] > 0], preset))

    return batches


def quantize_network(
    network: Network, config: DataConfig, how: QuantizeConfig, *, count: int = IMAGES, batch_size: int = 64
) -> Quantized:
    """Quantises a network, calibrated on images of `config.train_split`.

    Raises:
      ConfigError, DataError, ModelError: as of `calibration_batches` and `quantize`.
    """
    batches = calibration_batches(network, config, count, batch_size)
    return quantize(network.model, network.variables, batches, how)
