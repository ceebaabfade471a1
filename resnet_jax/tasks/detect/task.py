"""Detection as a task."""

from functools import partial
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from resnet_jax.config import Config, Detect
from resnet_jax.data import Source, Subset, missing_leaves
from resnet_jax.data.box_fills import EvalBoxes, TrainBoxes
from resnet_jax.data.box_survey import check_places
from resnet_jax.data.canvases import Canvases, Size
from resnet_jax.data.check import check_some
from resnet_jax.errors import ConfigError
from resnet_jax.models import init
from resnet_jax.models.detect.network import Detector
from resnet_jax.models.segment.network import stages_of
from resnet_jax.tasks.coloured import make_prepare
from resnet_jax.tasks.detect.coco import make_report_of
from resnet_jax.tasks.detect.find import make_find
from resnet_jax.tasks.detect.loss import make_loss
from resnet_jax.tasks.detect.measure import Find, best_of, make_measure, names_of
from resnet_jax.tasks.task import Predict, Prepare, Task
from resnet_jax.training.accumulate import Batch

HEAD = ("box_predictor", "mask_predictor/mask_fcn_logits", "head/classification_head/cls_logits", "head/cls_score")
"""The layers with an output for each class."""
ALL_PARTS, PARTS_OF_WEIGHTS = 5, 3
"""Parts of the backbone that are trained from random variables, and from weights (torchvision's defaults)."""


def detect(config: Config, model: Any) -> Task:
    """Detection: the network finds objects of `config.model.num_classes` classes, the background among them.

    Args:
      model: a network of `models.detect`.

    Raises:
      ConfigError: `model` is a network for something else.
    """
    check_model(config, model)
    options = config.task
    assert isinstance(options, Detect)
    prepare, find, masks = make_padded(make_prepare(config)), make_find(model), has_masks(model)
    return Task(
        fills=(train_fill(config, options, masks=masks), eval_fill(config, options, (options.train_side,) * 2)),
        init=partial(init, model, channels=config.data.channels),
        prepare=prepare,
        loss=make_loss(model, prepare),
        measure=make_measure(find, prepare),
        report=None,
        report_of=make_report_of(masks=masks, exif=config.data.exif),
        predict=make_predict(find, prepare),
        best=best_of(masks),
        names=names_of(masks),
        head=HEAD,
        parts=partial(parts_of, config, options),
        check_source=partial(check_train_source, config, options, masks=masks),
        check_eval_source=partial(check_source, config, masks=masks),
        fixed=fixed_parts(config, model),
    )


def has_masks(model: Any) -> bool:
    """Whether a detector gives masks."""
    return bool(getattr(model, "mask", False))


def is_detector(model: Any) -> bool:
    """Whether a network finds objects."""
    return isinstance(model, Detector)


def check_model(config: Config, model: Any) -> None:
    """Raises a ConfigError where the network does not find objects."""
    if not is_detector(model):
        raise ConfigError(
            f"model.name = {config.model.name!r} names no objects in an image, and the task is to find them; choose a "
            "detector, such as fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn or retinanet_resnet50_fpn"
        )


def train_fill(config: Config, options: Detect, *, masks: bool) -> TrainBoxes:
    data = config.data
    return TrainBoxes(
        preset_mean=data.mean,
        channels=data.channels,
        exif=data.exif,
        classes=_classes(config),
        canvas=(options.train_side,) * 2,
        min_size=options.min_size,
        max_size=options.max_size,
        jitter=options.jitter,
        flip=data.augment.flip,
        max_boxes=options.max_boxes,
        mask_side=options.mask_size if masks else 0,
        canvases=options.train_canvases,
    )


def eval_fill(config: Config, options: Detect, canvas: Size, indices: tuple[int, ...] = ()) -> EvalBoxes:
    data = config.data
    return EvalBoxes(
        preset_mean=data.mean,
        channels=data.channels,
        exif=data.exif,
        canvas=canvas,
        min_size=options.min_size[-1],
        max_size=options.max_size,
        indices=indices,
    )


def parts_of(config: Config, options: Detect, source: Source) -> list[tuple[EvalBoxes, Source]]:
    """The images of a split on a few canvases, each with its fill."""
    base, longest = options.min_size[-1], options.max_size
    canvases = Canvases(source, base=base, longest=longest, exif=config.data.exif).groups(options.eval_canvases)
    return [
        (eval_fill(config, options, canvas.size, tuple(canvas.indices)), Subset(source, canvas.indices))
        for canvas in canvases
    ]


def _classes(config: Config) -> int:
    assert config.model.num_classes is not None, "assemble.build_model has refused it"
    return config.model.num_classes


def make_padded(prepare: Prepare) -> Prepare:
    """The same preparation, with zeros in the place of what lies beside an image on its canvas, as torchvision has it
    after normalising. Without `size` an image fills its canvas."""

    def padded(key: Key[Array, ""] | None, batch: Batch) -> Batch:
        seen = prepare(key, batch)
        images = seen["image"]
        if "size" not in seen:
            whole = jnp.asarray(images.shape[1:3], jnp.int32)[None]
            return {**seen, "size": jnp.tile(whole, (len(images), 1))}
        size = seen["size"]
        rows = jnp.arange(images.shape[1])[None] < size[:, :1]
        columns = jnp.arange(images.shape[2])[None] < size[:, 1:]
        inside = rows[:, :, None, None] & columns[:, None, :, None]
        return {**seen, "image": jnp.where(inside, images, 0)}

    return padded


def make_predict(find: Find, prepare: Prepare) -> Predict:
    """Returns a function that gives for each image `boxes` (N, D, 4) on the canvas, `scores`, `labels` (-1 = none) and,
    if the network has masks, `masks` (N, D, 28, 28) within the boxes."""

    def predict(variables: PyTree[Array], batch: Batch) -> dict[str, Array]:
        seen = prepare(None, batch)
        found = find(variables, seen["image"], seen["size"])
        masks = {} if found.masks is None else {"masks": found.masks}
        return {"boxes": found.boxes, "scores": found.scores, "labels": found.labels, **masks}

    return predict


def fixed_parts(config: Config, model: Detector) -> tuple[str, ...]:
    """Regular expressions of the parameters that are never trained: those of the first parts of the backbone, and of
    its norms if they are frozen, as torchvision's are."""
    stages = len(stages_of(model.backbone))
    trained = model.trainable_backbone_layers
    if trained is None:
        trained = PARTS_OF_WEIGHTS if config.start.weights else ALL_PARTS
    if trained >= ALL_PARTS:
        fixed = []
    else:
        frozen = [f"layer{stage}_" for stage in range(1, max(0, stages - trained) + 1)]
        fixed = [r"^backbone/(?!layer\d)", *(rf"^backbone/{name}" for name in frozen)]
    norms = str(model.backbone.norm or "").startswith("frozen")
    return (*fixed, *([r"^backbone/.*/(scale|bias)$"] if norms else []))


def check_source(config: Config, source: Source, *, masks: bool) -> None:
    """Raises a ConfigError if examples lack images or boxes, or masks that the network is to learn, or if the network
    has another number of classes, and a DataError as `check_some`."""
    needs = ("image", "boxes", "classes", *(["instances"] if masks else []))
    if text := missing_leaves(source, needs, "detection", f"data.name = {config.data.name}"):
        raise ConfigError(text)
    classes = len(source.class_names)
    if classes != config.model.num_classes:
        raise ConfigError(
            f"model.num_classes = {config.model.num_classes}, but {config.data.name} has {classes} classes, the "
            f"background among them; set model.num_classes = {classes}"
        )
    check_some(config.data, source)


def check_train_source(config: Config, options: Detect, source: Source, *, masks: bool) -> None:
    """Raises a ConfigError as `check_source` does, and where an image has more objects than there are places."""
    check_source(config, source, masks=masks)
    check_places(source, options.max_boxes, config.data.name)
