"""Which function makes the task that a config names. It alone knows all the tasks."""

from collections.abc import Callable

from resnet_jax.config import Classify, Config
from resnet_jax.tasks import assemble
from resnet_jax.tasks.classify.task import classify
from resnet_jax.tasks.task import Task

TASKS: dict[type, Callable[[Config], Task]] = {
    Classify: lambda config: classify(config, assemble.build_model(config)),
}
"""By the class of `config.task`."""


def task_of(config: Config) -> Task:
    """The task that a config names."""
    return TASKS[type(config.task)](config)
