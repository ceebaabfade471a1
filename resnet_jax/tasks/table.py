"""Which function makes the task that a config names. Only this module knows all tasks."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from resnet_jax.config import Classify, Clips, Config, Detect, Embed, Segment
from resnet_jax.config_files import FILE_NAME, saved_config
from resnet_jax.data import load_source
from resnet_jax.files import open_folder
from resnet_jax.models.create import backbone_of
from resnet_jax.tasks import assemble
from resnet_jax.tasks.classify.task import classify
from resnet_jax.tasks.clips.task import clips
from resnet_jax.tasks.detect.task import detect
from resnet_jax.tasks.embed.task import embed
from resnet_jax.tasks.segment.task import segment
from resnet_jax.tasks.task import Task

TASKS: dict[type, Callable[[Config, Any], Task]] = {
    Classify: classify,
    Segment: segment,
    Embed: embed,
    Clips: clips,
    Detect: detect,
}
"""The function for each class of `config.task`. It takes the network too."""


def settled(config: Config) -> Config:
    """The config with what it leaves open: the number of classes, which the data set has, and the widths of a pruned
    network that the run starts from.

    Raises:
      DataError: the data set cannot be read.
      ConfigError: `config.start.weights` is the folder of a run that cannot be read.
    """
    widths = config.model.widths or _widths_of_start(config)
    config = replace(config, model=replace(config.model, widths=widths))
    if config.model.num_classes is not None:
        return config
    classes = len(load_source(config.data, config.data.train_split).class_names)
    return replace(config, model=replace(config.model, num_classes=classes))


def _widths_of_start(config: Config) -> tuple[int, ...]:
    """Those of the run that `start.weights` names, if its network is the one that is trained, or its backbone."""
    weights = config.start.weights
    if not weights or not (open_folder(weights) / FILE_NAME).exists():
        return ()
    theirs = saved_config(weights).model
    same = (backbone_of(theirs.name) or theirs.name) == (backbone_of(config.model.name) or config.model.name)
    return theirs.widths if same else ()


def task_of(config: Config, model: Any = None) -> Task:
    """The task that a config names.

    Args:
      model: the network, where it is not the one that the config describes.
    """
    return TASKS[type(config.task)](config, assemble.build_model(config) if model is None else model)
