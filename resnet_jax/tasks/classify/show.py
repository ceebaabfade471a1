"""The batches that a run trains on, for people to look at."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from resnet_jax.config import Config
from resnet_jax.data import load_source
from resnet_jax.tasks.classify.task import check_classes, make_prepare
from resnet_jax.tasks.seen import seen_in_update


@dataclass(frozen=True)
class TrainingBatch:
    """A batch as the network sees it, with pixel values back in [0, 1] and before label smoothing."""

    images: Float[np.ndarray, "N H W C"]
    targets: Float[np.ndarray, "N K"]
    class_names: tuple[str, ...]


def training_batch(config: Config, step: int) -> TrainingBatch:
    """The batch of update number `step` of a run with this config. The first is 1, as in the log.

    Raises:
      DataError: the data set cannot be read, or is not what the config says.
    """
    source = load_source(config.data, config.data.train_split)
    if config.model.num_classes is not None:
        check_classes(config, source)
    seen = seen_in_update(config, source, make_prepare(config, len(source.class_names)), step)
    return TrainingBatch(images=seen["image"], targets=seen["target"], class_names=source.class_names)
