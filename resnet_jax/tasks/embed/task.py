"""Embeddings as a task."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PyTree

from resnet_jax.config import Config, Embed, Preset
from resnet_jax.data import Source, augment, leaves_of, missing_leaves, normalize
from resnet_jax.data.fills import Draws, EvalImage, Leaves, Row, TrainImage
from resnet_jax.errors import ConfigError
from resnet_jax.models import init
from resnet_jax.models.embed.network import Embedder
from resnet_jax.tasks.embed.centres import rows_for
from resnet_jax.tasks.embed.loss import CENTRES, FIRST_NORMS, NORMS, make_loss
from resnet_jax.tasks.embed.measure import BEST, NAMES, make_embed, make_measure, report
from resnet_jax.tasks.task import Predict, Prepare, Task
from resnet_jax.training.accumulate import Batch

CENTRE_DEVIATION = 0.01
"""Of the centres' first random numbers, as in insightface."""


def embed(config: Config, model: Any) -> Task:
    """Embeddings: the network gives each image a vector, and training brings those of one identity together.

    Args:
      model: a network of `models.embed`.

    Raises:
      ConfigError: `model` is a network for something else, images are mixed, or the loss needs other batches.
    """
    options = config.task
    assert isinstance(options, Embed)
    check_config(config, options, model)
    assert config.model.num_classes is not None, "assemble.build_model has refused it"
    prepare = make_prepare(config)
    look = make_embed(model, flip=options.eval_flip)
    return Task(
        fills=(TrainImage(config.data), EvalImage(config.data.preset)),
        init=partial(init_variables, model, config.model.num_classes, config.data.channels, options),
        prepare=prepare,
        loss=make_loss(model, prepare, options, classes=config.model.num_classes),
        measure=make_measure(look, prepare),
        report=report,
        predict=make_predict(look, prepare),
        best=BEST,
        names=NAMES,
        head=(CENTRES, NORMS),
        split=(rf"^{CENTRES}$",) if options.has_centres else (),
        group_size=1 if options.has_centres else 0,
        fixed=("^features/scale$",),
        parts=partial(parts_of, config),
        check_source=partial(check_source, config),
        check_eval_source=partial(check_leaves, config.data.name),
    )


def init_variables(
    model: Embedder, classes: int, channels: int, options: Embed, key: Key[Array, ""]
) -> dict[str, PyTree[Array]]:
    """The variables of the network, and what the loss adds: centres (rows, sub-centres, embedding), and AdaFace's
    statistics."""
    variables = {name: dict(tree) for name, tree in init(model, key, channels=channels).items()}
    if options.has_centres:
        shape = (rows_for(classes), options.sub_centres, model.embedding_size)
        drawn = CENTRE_DEVIATION * jax.random.normal(jax.random.fold_in(key, 1), shape, model.param_dtype)
        variables["params"][CENTRES] = drawn
    if options.loss == "adaface":
        first = {name: jnp.asarray(value, model.param_dtype) for name, value in FIRST_NORMS.items()}
        variables["batch_stats"][NORMS] = first
    return variables


def check_config(config: Config, options: Embed, model: Any) -> None:
    """Raises a ConfigError where the network or the batches do not go with the task."""
    if not isinstance(model, Embedder):
        raise ConfigError(
            f"model.name = {config.model.name!r} gives no embeddings, which the task needs; choose an iresnet, or "
            f"embed_{config.model.name}"
        )
    if config.data.augment.mixes:
        raise ConfigError(
            "data.augment mixes images (mixup_alpha, cutmix_alpha), and a mixture has no identity; set both to 0"
        )
    if not options.has_centres and not config.data.per_identity:
        raise ConfigError(
            f"task.loss = {options.loss!r} compares images of one identity in a batch, and data.per_identity = 0 lets "
            "them come by chance; set it to the images of an identity in a batch, such as 4"
        )


def make_prepare(config: Config) -> Prepare:
    """Returns a function that turns `image` uint8 (N, H, W, C) into float32. With a key it also augments."""

    def prepare(key: Key[Array, ""] | None, batch: Batch) -> Batch:
        if key is None:
            return {**batch, "image": normalize(batch["image"], config.data.preset)}
        images, _ = augment(key, batch["image"], batch["label"], config.data, 1, batch["position"])
        return {**batch, "image": images}

    return prepare


def make_predict(look: Any, prepare: Prepare) -> Predict:
    """Returns a function that gives `embedding` (N, E), of length 1."""

    def predict(variables: PyTree[Array], batch: Batch) -> dict[str, Array]:
        return {"embedding": look(variables, prepare(None, batch)["image"])}

    return predict


@dataclass(frozen=True)
class EvalPair(EvalImage):
    """Writes also `same` int32: whether an example and its partner, examples 2i and 2i + 1, are of one identity."""

    needs = ("image", "same")

    @property
    def leaves(self) -> Leaves:
        image = super().leaves["image"]
        return {"image": image, "same": ((), np.int32)}

    def __call__(self, example: Mapping[str, Any], draws: Draws, row: Row) -> None:
        super().__call__({**example, "label": 0}, draws, {**row, "label": np.empty((), np.int32)})
        row["same"][...] = example["same"]


def parts_of(config: Config, source: Source) -> list[tuple[EvalImage, Source]]:
    """The whole split, with the fill for what its examples hold."""
    return [(fill_of(source, config.data.preset), source)]


def fill_of(source: Source, preset: Preset) -> EvalImage:
    """The fill for what the examples of a split for evaluation hold: identities, or pairs."""
    return EvalPair(preset) if "same" in leaves_of(source) else EvalImage(preset)


def check_leaves(name: str, source: Source) -> None:
    """Raises a ConfigError if a split for evaluation has neither identities nor pairs."""
    if "same" in leaves_of(source):
        return
    if text := missing_leaves(source, TrainImage.needs, "verification", f"data.name = {name}"):
        raise ConfigError(text)


def check_source(config: Config, source: Source) -> None:
    """Raises a ConfigError if examples of the training set lack image or label, or the numbers of identities differ."""
    if text := missing_leaves(source, TrainImage.needs, "embeddings", f"data.name = {config.data.name}"):
        raise ConfigError(text)
    classes = len(source.class_names)
    if classes != config.model.num_classes:
        raise ConfigError(
            f"model.num_classes = {config.model.num_classes}, but {config.data.name} has {classes} identities to train "
            f"on; set model.num_classes = {classes}"
        )
