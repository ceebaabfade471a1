"""Segmentation as a task."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from resnet_jax.config import Config, Segment
from resnet_jax.data import Source, Subset, load_source, missing_leaves
from resnet_jax.data.canvases import Canvases
from resnet_jax.data.check import check_some
from resnet_jax.data.mask_fills import EvalMask, TrainMask
from resnet_jax.errors import ConfigError
from resnet_jax.models import init
from resnet_jax.models.segment.network import SCORES, Segmenter
from resnet_jax.models.segment.unet import UNet
from resnet_jax.tasks.coloured import make_prepare
from resnet_jax.tasks.segment.loss import make_distance, make_loss
from resnet_jax.tasks.segment.measure import BEST, NAMES, Score, make_measure, make_report, make_score
from resnet_jax.tasks.task import Predict, Prepare, Task
from resnet_jax.training.accumulate import Batch

NEEDS = ("image", "mask")
HEAD = ("classifier/4", "aux_classifier/4", "segmentation_head_0", *SCORES)
"""The last convolutions, with an output for each class."""


def segment(config: Config, model: Any) -> Task:
    """Segmentation: the network names one class for each pixel, of `config.model.num_classes`.

    Args:
      model: a network of `models.segment`.

    Raises:
      ConfigError: `model` is a network for something else, or the class weights are not one for each class.
    """
    check_model(config, model)
    options = config.task
    assert isinstance(options, Segment)
    prepare = make_prepare(config)
    score = make_score(model, flip=options.eval_flip, window=options.eval_window)
    return Task(
        fills=(train_fill(config, options), eval_fill(config, (config.data.eval_resize,) * 2)),
        init=partial(init, model, channels=config.data.channels),
        prepare=prepare,
        loss=make_loss(model, prepare, options),
        measure=make_measure(score, prepare, model.num_classes),
        report=make_report(lambda: load_source(config.data, config.data.eval_split).class_names),
        predict=make_predict(score, prepare),
        best=BEST,
        names=NAMES,
        head=HEAD,
        parts=partial(parts_of, config, options),
        distance=make_distance(options),
        check_source=partial(check_source, config),
    )


def train_fill(config: Config, options: Segment) -> TrainMask:
    data = config.data
    return TrainMask(
        preset_mean=data.mean,
        channels=data.channels,
        base=data.eval_resize,
        scale=(options.min_scale, options.max_scale),
        crop=data.train_size,
        exif=data.exif,
        classes=_classes(config),
        flip=data.augment.flip,
    )


def eval_fill(config: Config, canvas: tuple[int, int]) -> EvalMask:
    data = config.data
    return EvalMask(
        preset_mean=data.mean,
        channels=data.channels,
        base=data.eval_resize,
        canvas=canvas,
        exif=data.exif,
        classes=_classes(config),
    )


def parts_of(config: Config, options: Segment, source: Source) -> list[tuple[EvalMask, Source]]:
    """The images of a split on a few canvases, each with its fill."""
    canvases = Canvases(source, base=config.data.eval_resize, exif=config.data.exif).groups(options.eval_canvases)
    return [(eval_fill(config, canvas.size), Subset(source, canvas.indices)) for canvas in canvases]


def _classes(config: Config) -> int:
    assert config.model.num_classes is not None, "assemble.build_model has refused it"
    return config.model.num_classes


def is_segmenter(model: Any) -> bool:
    """Whether a network names a class for each pixel."""
    return isinstance(model, Segmenter | UNet)


def check_model(config: Config, model: Any) -> None:
    """Raises a ConfigError where the network does not segment, or where class weights are not one for each class."""
    if not is_segmenter(model):
        raise ConfigError(
            f"model.name = {config.model.name!r} names one class for a whole image, and the task is to segment; choose "
            f"fcn_{config.model.name}, deeplabv3_{config.model.name} or unet_{config.model.name}"
        )
    weights = config.task.class_weights if isinstance(config.task, Segment) else ()
    if weights and len(weights) != model.num_classes:
        raise ConfigError(
            f"task.class_weights has {len(weights)} numbers, and the network has {model.num_classes} classes; give one "
            "for each class, the background first"
        )


def make_predict(score: Score, prepare: Prepare) -> Predict:
    """Returns a function that gives `mask` uint8 (N, H, W), the most probable class of each pixel, and `probability`
    (N, H, W), how sure the network is of it."""

    def predict(variables: PyTree[Array], batch: Batch) -> dict[str, Array]:
        shares = jax.nn.softmax(score(variables, prepare(None, batch)["image"]))
        return {"mask": jnp.argmax(shares, axis=-1).astype(jnp.uint8), "probability": jnp.max(shares, axis=-1)}

    return predict


def check_source(config: Config, source: Source) -> None:
    """Raises a ConfigError if examples lack image or mask, or if the network has another number of classes, and a
    DataError as `check_some`."""
    if text := missing_leaves(source, NEEDS, "segmentation", f"data.name = {config.data.name}"):
        raise ConfigError(text.replace("digits or digit_numbers", "digit_scenes"))
    classes = len(source.class_names)
    if classes != config.model.num_classes:
        raise ConfigError(
            f"model.num_classes = {config.model.num_classes}, but {config.data.name} has {classes} classes, the "
            f"background among them; set model.num_classes = {classes}"
        )
    check_some(config.data, source)
