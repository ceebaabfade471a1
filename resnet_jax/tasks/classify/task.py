"""Classification as a task."""

from functools import partial

from jaxtyping import Array, Key

from resnet_jax.config import Config
from resnet_jax.data import augment, normalize
from resnet_jax.models import ResNet, init
from resnet_jax.tasks.classify.loss import make_loss
from resnet_jax.tasks.classify.measure import BEST, NAMES, make_measure, report
from resnet_jax.tasks.task import Prepare, Task
from resnet_jax.training.accumulate import Batch


def classify(config: Config, model: ResNet) -> Task:
    """The task of naming the one class that an image has, of `config.model.num_classes`."""
    prepare = make_prepare(config)
    return Task(
        init=partial(init, model, channels=config.data.channels),
        prepare=prepare,
        loss=make_loss(model, prepare, label_smoothing=config.optim.label_smoothing),
        measure=make_measure(model, prepare),
        report=report,
        best=BEST,
        names=NAMES,
    )


def make_prepare(config: Config) -> Prepare:
    """Returns what becomes of `image` uint8 (N, H, W, C) and `label` (N,): `image` in float32 and, with a key, `target`
    (N, K), a distribution over the classes for each image."""

    def prepare(key: Key[Array, ""] | None, batch: Batch) -> Batch:
        if key is None:
            return {**batch, "image": normalize(batch["image"], config.data)}
        images, targets = augment(
            key, batch["image"], batch["label"], config.data, config.model.num_classes, batch["position"]
        )
        return {**batch, "image": images, "target": targets}

    return prepare
