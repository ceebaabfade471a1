"""A task with a teacher: a trained network, which does not change, sees what the network that is trained sees."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Key, PyTree

from resnet_jax.config import Distil, Preset
from resnet_jax.data.device import standardize
from resnet_jax.errors import ConfigError
from resnet_jax.models import ResNet
from resnet_jax.tasks.task import Task
from resnet_jax.training.accumulate import Batch
from resnet_jax.training.losses import attention_distance
from resnet_jax.training.step import Losses

TEACHER = "teacher"
"""The name of the teacher's variables in `TrainState.fixed`, and so among the parameters that the loss gets."""


def distilled(task: Task, options: Distil, teacher: Any, ours: Preset, theirs: Preset) -> Task:
    """The task with the loss that `Distil` describes. All else stays as it is, so a run is read without its teacher.

    The teacher sees the very images that the student sees, after augmentation and mixing, within the step. It predicts
    with its running statistics, and without a gradient. Its variables are in `TrainState.fixed`, under `TEACHER`.

    Further metrics are `from_labels`, the task's own loss; `from_teacher`, the distance of the outputs; and
    `from_attention`, that of the stages.

    Args:
      teacher: the network.
      ours: how the images of the student are normalised; `theirs`, those of the teacher.

    Raises:
      ConfigError: the task does not say how far two outputs are apart, or splits parameters over devices.
    """
    distance = task.distance
    if distance is None:
        raise ConfigError(
            "distil.teacher: the task does not say how far the outputs of two networks are apart; give it "
            "Task.distance (docs/tasks.md), or leave distil.teacher out"
        )
    if task.split:
        raise ConfigError(
            f"distil.teacher: the task splits {task.split[0]!r} over the devices, so no device has a whole output to "
            "compare; leave distil.teacher out"
        )

    def loss(
        params: PyTree[Array], batch_stats: PyTree[Array], batch: Batch, key: Key[Array, ""], axis: str | None
    ) -> Losses:
        with watched(options.attention) as student:
            own = {name: tree for name, tree in params.items() if name != TEACHER}
            found = task.loss(own, batch_stats, batch, key, axis)
        with watched(options.attention) as taught:
            teacher.apply(params[TEACHER], as_prepared(student.images, ours, theirs), train=False)
        wanted, looked_at = jax.lax.stop_gradient((taught.outputs, taught.maps))
        apart = distance(student.outputs, wanted, batch, options.temperature)
        metrics = {**found.metrics, "from_labels": found.loss, "from_teacher": apart}
        # 0 times the loss of the labels would not be 0 where that is infinite.
        total = apart if options.alpha == 1 else (1 - options.alpha) * found.loss + options.alpha * apart
        if options.attention:
            looks = jnp.stack(list(map(_attention, options.attention, student.maps, looked_at))).sum(axis=0)
            metrics["from_attention"] = looks if found.weight is None else looks * found.weight
            total = total + options.attention_weight * metrics["from_attention"]
        return found._replace(loss=total, metrics=metrics)

    return replace(task, loss=loss)


@dataclass
class Watched:
    """What a network was called with, and what it gave.

    Attributes:
      maps: what the stages put out, in the order in which they were asked for; None for a stage that is not there.
    """

    calls: list[tuple[Array, Any]] = field(default_factory=list)
    maps: list[Array | None] = field(default_factory=list)

    @property
    def images(self) -> Float[Array, "N H W C"]:
        return self._call[0]

    @property
    def outputs(self) -> Any:
        return self._call[1]

    @property
    def _call(self) -> tuple[Array, Any]:
        if len(self.calls) != 1:
            raise ConfigError(
                f"distil.teacher: the loss of the task applies {len(self.calls)} networks, and a teacher is compared "
                "with one; leave distil.teacher out"
            )
        return self.calls[0]


@contextlib.contextmanager
def watched(stages: Sequence[int] = ()) -> Iterator[Watched]:
    """Inside, a network that is applied leaves its images and its outputs.

    So a task's loss need not give them away, and a teacher sees exactly what the student saw.

    Args:
      stages: of the network or of its backbone, from 1, whose maps it leaves too.
    """
    seen = Watched()

    def watch(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module: Any = context.module
        if context.method_name != "__call__" or not (isinstance(module, ResNet) or not module.path):
            return call(*args, **kwargs)
        if isinstance(module, ResNet) and stages:
            found = call(*args, **{**kwargs, "features": True})
            seen.maps = [found.get(f"stage{i}") for i in stages]
            out = found if kwargs.get("features") else found["logits"]
        else:
            out = call(*args, **kwargs)
        if not module.path:
            seen.calls.append((args[0], out))
        return out

    with nn.intercept_methods(watch):
        yield seen


def as_prepared(images: Float[Array, "N H W C"], ours: Preset, theirs: Preset) -> Float[Array, "N H W C"]:
    """Normalised images, normalised as another network wants them. A grey image becomes three equal channels.

    This is exact except for rounding, also for mixtures of images, since it is linear.

    Args:
      theirs: has as many channels as `ours`, or three where those have one.
    """
    if (ours.mean, ours.std) == (theirs.mean, theirs.std):
        return images
    mean, std = (jnp.asarray(values, images.dtype)[None, None, None] for values in (ours.mean, ours.std))
    pixels = images * std + mean
    return standardize(jnp.broadcast_to(pixels, (*pixels.shape[:-1], theirs.channels)), theirs)


def _attention(stage: int, ours: Array | None, theirs: Array | None) -> Float[Array, " N"]:
    if ours is None or theirs is None:
        whose = "student" if ours is None else "teacher"
        raise ConfigError(f"distil.attention: the {whose} has no stage {stage}; name a stage that both networks have")
    if ours.shape[1:3] != theirs.shape[1:3]:
        raise ConfigError(
            f"distil.attention: the maps of stage {stage} have {ours.shape[1]}x{ours.shape[2]} places in the student "
            f"and {theirs.shape[1]}x{theirs.shape[2]} in the teacher; name stages where both are equal, or leave it out"
        )
    return attention_distance(ours, theirs)
