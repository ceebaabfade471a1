"""Classification as a task."""

from functools import partial

import jax
from jaxtyping import Array, Key, PyTree

from resnet_jax.config import Classify, Config
from resnet_jax.data import Source, augment, missing_leaves, normalize
from resnet_jax.data.fills import EvalImage, TrainImage
from resnet_jax.errors import ConfigError
from resnet_jax.models import ResNet, init
from resnet_jax.tasks.classify.look import Look, make_look
from resnet_jax.tasks.classify.loss import make_loss
from resnet_jax.tasks.classify.measure import BEST, NAMES, make_measure, report
from resnet_jax.tasks.task import Predict, Prepare, Task
from resnet_jax.training.accumulate import Batch
from resnet_jax.training.losses import divergence


def classify(config: Config, model: ResNet) -> Task:
    """Classification: the network names one class for each image, of `config.model.num_classes`."""
    prepare = make_prepare(config, model.num_classes)
    assert isinstance(config.task, Classify)
    look = make_look(model, flip=config.task.eval_flip)
    return Task(
        fills=(TrainImage(config.data), EvalImage(config.data.preset)),
        init=partial(init, model, channels=config.data.channels),
        prepare=prepare,
        loss=make_loss(model, prepare, config.task),
        measure=make_measure(look, prepare),
        report=report,
        predict=make_predict(look, prepare),
        best=BEST,
        names=NAMES,
        head=("fc",),
        distance=lambda logits, wanted, _, temperature: divergence(logits, wanted, temperature),
        check_source=partial(check_classes, config),
    )


def make_predict(look: Look, prepare: Prepare) -> Predict:
    """Returns a function that gives `probability` (N, K): how sure the network is of each class."""

    def predict(variables: PyTree[Array], batch: Batch) -> dict[str, Array]:
        return {"probability": jax.nn.softmax(look(variables, prepare(None, batch)["image"]))}

    return predict


def check_classes(config: Config, source: Source) -> None:
    """Raises a ConfigError if examples lack image or label, or if the network has another number of classes."""
    if text := missing_leaves(source, TrainImage.needs, "classification", f"data.name = {config.data.name}"):
        raise ConfigError(text)
    classes = len(source.class_names)
    if classes == 1:
        raise ConfigError(
            f"{config.data.name} has one class ({source.class_names[0]}), so there is nothing to tell apart; at least "
            "two are needed: a folder of images for each class"
        )
    if classes != config.model.num_classes:
        raise ConfigError(
            f"model.num_classes = {config.model.num_classes}, but {config.data.name} has {classes} classes; "
            f"set model.num_classes = {classes}"
        )


def make_prepare(config: Config, classes: int) -> Prepare:
    """Returns a function that turns `image` uint8 (N, H, W, C) into float32. With a key it also turns `label` (N,) into
    `target` (N, K), a distribution over the classes for each image."""

    def prepare(key: Key[Array, ""] | None, batch: Batch) -> Batch:
        if key is None:
            return {**batch, "image": normalize(batch["image"], config.data.preset)}
        images, targets = augment(key, batch["image"], batch["label"], config.data, classes, batch["position"])
        return {**batch, "image": images, "target": targets}

    return prepare
