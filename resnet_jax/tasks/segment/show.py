"""The images and masks that a run trains on, for people to look at."""

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float, UInt8

from resnet_jax.config import Config, Segment
from resnet_jax.data import load_source, train_batches
from resnet_jax.tasks.segment.task import check_source, make_prepare, train_fill
from resnet_jax.training.state import split_key
from resnet_jax.training.step import step_key


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
    fill = train_fill(config, options)
    batches = train_batches(source, config.data, batch_size=config.batch_size, seed=config.seed, fill=fill)
    batches.set_state({"position": (step - 1) * config.batch_size})
    batch = next(batches)
    batches.close()
    _, run_key = split_key(jax.random.key(config.seed))
    batch["position"] = np.arange(config.batch_size)
    seen = jax.device_get(jax.jit(make_prepare(config))(step_key(run_key, step - 1), batch))
    mean, std = (np.array(values, np.float32) for values in (config.data.preset.mean, config.data.preset.std))
    return MaskedBatch(np.clip(seen["image"] * std + mean, 0, 1), seen["mask"], tuple(source.class_names))
