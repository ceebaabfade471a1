"""The images and masks that a run trains on, for people to look at."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from resnet_jax.config import Config, Segment
from resnet_jax.data import load_source
from resnet_jax.tasks.coloured import make_prepare
from resnet_jax.tasks.seen import seen_in_update
from resnet_jax.tasks.segment.task import check_source, train_fill


@dataclass(frozen=True)
class MaskedBatch:
    """A batch as the network sees it, with pixel values back in [0, 1]."""

    images: Float[np.ndarray, "N H W C"]
    masks: UInt8[np.ndarray, "N H W"]
    class_names: tuple[str, ...]


def training_batch(config: Config, step: int) -> MaskedBatch:
    """The batch of update number `step` of a run with this config. The first is 1, as in the log.

    Args:
      config: with its number of classes.

    Raises:
      DataError, ConfigError: the data set cannot be read, or is not what the config says.
    """
    options = config.task
    assert isinstance(options, Segment)
    source = load_source(config.data, config.data.train_split)
    check_source(config, source)
    seen = seen_in_update(config, source, make_prepare(config), step, fill=train_fill(config, options))
    return MaskedBatch(seen["image"], seen["mask"], tuple(source.class_names))
