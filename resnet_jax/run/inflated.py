"""A run whose network sees clips, and starts from weights of the same network for images."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from resnet_jax.config import Config
from resnet_jax.errors import ConfigError, WeightsError
from resnet_jax.tasks.assemble import build_model
from resnet_jax.weights.inflate import check_inflatable, inflate_arrays


def time_of(config: Config) -> dict[str, Any]:
    """The options with which `start.weights` are read: those of clips, unless they are weights of images."""
    return {"time": config.model.time} if config.model.time and not config.start.inflate else {}


def inflated_if(config: Config, like: Mapping[str, Any], found: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The arrays of `start.weights`; where `start.inflate` says so, with an axis of time wherever `like` has one.

    Raises:
      ConfigError: the network cannot have weights of images.
    """
    how = config.start.inflate
    if how is None:
        return found
    try:
        check_inflatable(build_model(config))
    except WeightsError as error:
        raise ConfigError(f"start.inflate = {how!r}: {error}") from error
    return inflate_arrays(found, like, how)
