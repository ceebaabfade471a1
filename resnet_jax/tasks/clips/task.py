"""Classification of videos as a task."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from resnet_jax.config import Clips, Config
from resnet_jax.data import Source, augment, missing_leaves, normalize
from resnet_jax.data.fills import Draws, Fill, Leaves, Row
from resnet_jax.data.video import EvalClip, TrainClip
from resnet_jax.errors import ConfigError
from resnet_jax.models import init
from resnet_jax.models.frames.network import HEAD, FrameNetwork
from resnet_jax.models.headed import resnet_in
from resnet_jax.tasks.clips.look import CLIP, FEATURES, LENGTH, Look, make_look, of_videos, seen_by
from resnet_jax.tasks.clips.measure import BEST, NAMES, make_measure, report
from resnet_jax.tasks.cross_entropy import loss_of_classes
from resnet_jax.tasks.task import Frozen, Predict, Prepare, Task
from resnet_jax.training.accumulate import Batch
from resnet_jax.training.losses import cross_entropy, divergence, one_hot


def clips(config: Config, model: Any) -> Task:
    """Classification of videos: the network names one class for each clip, of `config.model.num_classes`. Of a video,
    the probabilities are the mean over its clips.

    Args:
      model: a network of three axes, or one that looks at each frame.

    Raises:
      ConfigError: `model` is a network for images, or images are changed in a way that clips are not.
    """
    options = config.task
    assert isinstance(options, Clips)
    check_config(config, model)
    prepare = make_prepare(config, model.num_classes)
    look = make_look(model, prepare)
    return Task(
        fills=(train_fill(config, options), EvalClip(config.data.preset, config.data.clip)),
        init=partial(init, model, channels=config.data.channels),
        prepare=prepare,
        loss=loss_of_classes(
            model,
            prepare,
            partial(seen_by, model),
            partial(cross_entropy, label_smoothing=options.label_smoothing),
        ),
        measure=make_measure(look),
        report=report,
        predict=make_predict(look),
        best=BEST,
        names=NAMES,
        head=HEAD if isinstance(model, FrameNetwork) else ("fc",),
        distance=lambda logits, wanted, _, temperature: divergence(logits, wanted, temperature),
        check_source=partial(check_source, config),
        sees=CLIP,
        frozen=frozen_part(config, model) if options.fixed_clips else None,
    )


def frozen_part(config: Config, model: FrameNetwork) -> Frozen:
    """The network for images, which looks at each frame."""

    def compute(variables: PyTree[Array], batch: Batch) -> Float[Array, "N *V T D"]:
        clips = normalize(batch[CLIP], config.data.preset)
        frames = clips.reshape(-1, *clips.shape[-3:])
        own = {name: tree[model.root] for name, tree in variables.items()}
        return model.cnn.apply(own, frames, train=False).reshape(*clips.shape[:-3], -1)

    return Frozen(model.root, f"{config.model} {model.cnn}", FEATURES, compute)


@dataclass(frozen=True)
class MiddleClip:
    """Writes what `TrainClip` writes, of the clip in the middle of a video, prepared as in evaluation: always the
    same."""

    fill: EvalClip
    needs = ("video", "label")

    @property
    def leaves(self) -> Leaves:
        return {name: (shape[1:], kind) for name, (shape, kind) in self.fill.leaves.items()}

    def __call__(self, example: Mapping[str, Any], draws: Draws, row: Row) -> None:
        several = {name: row[name][None] for name in (CLIP, LENGTH)}
        self.fill(example, draws, {**row, **several})


def train_fill(config: Config, options: Clips) -> Fill:
    """What the host writes into a row in training."""
    if not options.fixed_clips:
        return TrainClip(config.data)
    return MiddleClip(EvalClip(config.data.preset, replace(config.data.clip, eval_clips=1, eval_crops=1)))


def make_predict(look: Look) -> Predict:
    """Returns a function that gives `probability` (N, K) of each video, and `of_clips` (N, V, K)."""

    def predict(variables: PyTree[Array], batch: Batch) -> dict[str, Array]:
        logits = look(variables, batch)
        return {"probability": jnp.exp(of_videos(logits)), "of_clips": jax.nn.softmax(logits)}

    return predict


def is_video_network(model: Any) -> bool:
    """Whether a network names one class for a clip."""
    return isinstance(model, FrameNetwork) or getattr(resnet_in(model), "time", None) is not None


def check_config(config: Config, model: Any) -> None:
    """Raises a ConfigError where the network or the augmentation does not go with the task."""
    if not is_video_network(model):
        raise ConfigError(
            f"model.name = {config.model.name!r} is a network for images, and the task is to classify clips; set "
            "model.time = '3d' for convolutions of three axes, task.frames such as 'lstm' to look at each frame, or "
            "choose r3d_18"
        )
    if isinstance(config.task, Clips) and config.task.fixed_clips and (changes := random_changes(config)):
        raise ConfigError(
            f"task.fixed_clips = True shows each video always alike in training, and data.augment changes it at random "
            f"({', '.join(changes)}); set these to False or 0, or task.fixed_clips to False"
        )


def random_changes(config: Config) -> list[str]:
    """The fields of `data.augment` that change clips at random."""
    augment = config.data.augment
    numbers = ("shift_pixels", "brightness", "contrast", "saturation", "hue", "lighting", "erase_probability")
    found = [name for name in ("random_resized_crop", "flip", *numbers) if getattr(augment, name)]
    found += ["policy"] * (augment.policy != "none") + ["mixup_alpha or cutmix_alpha"] * augment.mixes
    return found


def make_prepare(config: Config, classes: int) -> Prepare:
    """Returns a function that turns `clip` uint8 (N, T, H, W, C) into float32; features are left as they are. With a
    key it also augments, all frames of a clip alike, and turns `label` (N,) into `target` (N, K), a distribution over
    the classes for each clip."""

    def prepare(key: Key[Array, ""] | None, batch: Batch) -> Batch:
        if FEATURES in batch:
            return batch if key is None else {**batch, "target": one_hot(batch["label"], classes)}
        if key is None:
            return {**batch, CLIP: normalize(batch[CLIP], config.data.preset)}
        seen, targets = augment(key, batch[CLIP], batch["label"], config.data, classes, batch["position"])
        return {**batch, CLIP: seen, "target": targets}

    return prepare


def check_source(config: Config, source: Source) -> None:
    """Raises a ConfigError if examples lack video or label, or if the network has another number of classes."""
    if text := missing_leaves(source, TrainClip.needs, "clips", f"data.name = {config.data.name}"):
        raise ConfigError(text)
    classes = len(source.class_names)
    if classes < 2:
        raise ConfigError(
            f"{config.data.name} has one class ({source.class_names[0]}), so there is nothing to tell apart; at least "
            "two are needed: a folder of videos for each class"
        )
    if classes != config.model.num_classes:
        raise ConfigError(
            f"model.num_classes = {config.model.num_classes}, but {config.data.name} has {classes} classes; "
            f"set model.num_classes = {classes}"
        )
