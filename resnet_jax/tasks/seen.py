"""The batch of an update as the network sees it, for people to look at. A task's `show.py` says what it holds."""

from typing import Any

import jax
import numpy as np

from resnet_jax.config import Config
from resnet_jax.data import Source, train_batches
from resnet_jax.data.fills import Fill
from resnet_jax.tasks.task import Prepare
from resnet_jax.training.state import split_key
from resnet_jax.training.step import step_key


def seen_in_update(
    config: Config, source: Source, prepare: Prepare, step: int, *, fill: Fill | None = None
) -> dict[str, Any]:
    """What `prepare` makes of the batch of update number `step` of a run. The first is 1, as in the log.

    Args:
      source: the training set.
      fill: of the task; None = that of `train_batches`.

    Returns:
      the leaves of the prepared batch, on the host. `image` is (N, H, W, C) with pixel values back in [0, 1].
    """
    batches = train_batches(source, config.data, batch_size=config.batch_size, seed=config.seed, fill=fill)
    batches.set_state({"position": (step - 1) * config.batch_size})
    batch = next(batches)
    batches.close()
    _, run_key = split_key(jax.random.key(config.seed))
    batch["position"] = np.arange(config.batch_size)
    seen: dict[str, Any] = jax.device_get(jax.jit(prepare)(step_key(run_key, step - 1), batch))
    mean, std = (np.array(values, np.float32) for values in (config.data.preset.mean, config.data.preset.std))
    return seen | {"image": np.clip(seen["image"] * std + mean, 0, 1)}
