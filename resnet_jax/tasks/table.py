"""Which function makes the task that a config names. Only this module knows all tasks."""

from collections.abc import Callable
from dataclasses import replace

from resnet_jax.config import Classify, Config, Embed, Segment
from resnet_jax.data import load_source
from resnet_jax.tasks import assemble
from resnet_jax.tasks.classify.task import classify
from resnet_jax.tasks.embed.task import embed
from resnet_jax.tasks.segment.task import segment
from resnet_jax.tasks.task import Task

TASKS: dict[type, Callable[[Config], Task]] = {
    Classify: lambda config: classify(config, assemble.build_model(config)),
    Segment: lambda config: segment(config, assemble.build_model(config)),
    Embed: lambda config: embed(config, assemble.build_model(config)),
}
"""The function for each class of `config.task`."""


def settled(config: Config) -> Config:
    """The config with the number of classes filled in, if the config leaves it to the data set.

    Raises:
      DataError: the data set cannot be read.
    """
    if config.model.num_classes is not None:
        return config
    classes = len(load_source(config.data, config.data.train_split).class_names)
    return replace(config, model=replace(config.model, num_classes=classes))


def task_of(config: Config) -> Task:
    """The task that a config names."""
    return TASKS[type(config.task)](config)
