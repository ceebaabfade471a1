"""From what a user names to a network that requests can ask."""

import dataclasses

from resnet_jax.config import ServeConfig
from resnet_jax.errors import ConfigError
from resnet_jax.run.masks import MaskPredictor, mask_predictor_of
from resnet_jax.run.named import network_of, segments
from resnet_jax.run.network import Network
from resnet_jax.run.predict import Run
from resnet_jax.run.predictor import predictor_of
from resnet_jax.serve.asked import Served
from resnet_jax.serve.classes import Classes
from resnet_jax.serve.exported import Export
from resnet_jax.serve.pixels import Pixels, canvases_of


def served_of(opened: Run | Network | Export, config: ServeConfig, *, exif: bool = False) -> Served:
    """What requests see of a network. Images are prepared as `predict` prepares them.

    Args:
      exif: of weights without a run: turn photographs upright first.

    Raises:
      ConfigError: a network without classes, or whose images are not of one size.
    """
    sizes = sorted(set(config.batch_sizes))
    if isinstance(opened, Export):
        sizes = sizes if opened.batch is None else [opened.batch]
        if isinstance(opened.predictor, MaskPredictor):
            return Pixels(opened.predictor, [opened.sides], sizes)
        return Classes(opened.predictor, opened.preset, None, sizes)
    if segments(opened):
        masks = mask_predictor_of(opened, exif=exif)
        return Pixels(masks, canvases_of(config.aspects, masks.preset.resize), sizes)
    network = network_of(opened) if isinstance(opened, Run) else opened
    network = dataclasses.replace(network, preset=dataclasses.replace(network.preset, exif=exif or network.preset.exif))
    if not network.model.num_classes:
        raise ConfigError(f"{network.title} has no last layer, so it names no class; serve a network with classes")
    if not network.preset.crop and not network.preset.squash:
        raise ConfigError(
            f"{network.title} sees whole images of any shape, and programs for batches need one; set --preset.crop"
        )
    return Classes(predictor_of(opened, exif=exif), network.preset, network if config.cam else None, sizes)
