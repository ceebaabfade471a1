"""Images to calibrate a network with, of the data that it was trained on."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from resnet_jax import data
from resnet_jax.config import DataConfig, Preset, QuantizeConfig
from resnet_jax.config.data import without_folders
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


class Calibration(NamedTuple):
    """Attributes:
    batches: gives the normalised images, the same ones at each call.
    facts: what they are, and how the network is to be quantised, as JSON.
    """

    batches: Callable[[], Iterator[Float[np.ndarray, "N H W C"]]]
    facts: dict[str, Any]


def calibration(
    network: Network, config: DataConfig, how: QuantizeConfig, *, count: int = IMAGES, batch_size: int = 64
) -> Calibration:
    """Images of `config.train_split` to calibrate a network with, as evaluation prepares them.

    Args:
      count: how many images, drawn from the split; all of a smaller one.

    Raises:
      ConfigError: a count below 1.
      DataError: the split cannot be read, or, while `batches` are made, an image.
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

    facts = {"images": len(part), "data": without_folders(config.name), "split": config.train_split}
    return Calibration(batches, facts | asdict(how))
