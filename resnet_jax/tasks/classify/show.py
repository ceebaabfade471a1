"""The batches that a run trains on, for people to look at."""

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float

from resnet_jax.config import Config
from resnet_jax.data import load_source, train_batches
from resnet_jax.tasks.classify.task import check_classes, make_prepare
from resnet_jax.training.state import split_key
from resnet_jax.training.step import step_key


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
    batches = train_batches(source, config.data, batch_size=config.batch_size, seed=config.seed)
    batches.set_state({"position": (step - 1) * config.batch_size})
    batch = next(batches)
    batches.close()
    _, run_key = split_key(jax.random.key(config.seed))
    batch["position"] = np.arange(config.batch_size)
    seen = jax.device_get(jax.jit(make_prepare(config, len(source.class_names)))(step_key(run_key, step - 1), batch))
    pixels = seen["image"] * np.array(config.data.std, np.float32) + np.array(config.data.mean, np.float32)
    return TrainingBatch(images=np.clip(pixels, 0, 1), targets=seen["target"], class_names=source.class_names)
