"""`python -m resnet_jax data show CONFIG --out grid.png`, and `data show NAME --split train`"""

import dataclasses
import textwrap
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from jaxtyping import Float
from tyro.conf import Positional

from resnet_jax.commands.sheet import check_picture, draw_grid, short
from resnet_jax.config import AugmentConfig, DataConfig, Detect, Segment
from resnet_jax.display import plain_console

MIXED = 1e-3  # a class with less weight than this in a target is not named


def data_show(
    config: Positional[Path],
    overrides: Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="[-- --FIELD VALUE ...]")]] = (),
    out: Path = Path("grid.png"),
    images: int = 24,
    step: int = 1,
    split: str | None = None,
    exif: bool = False,
) -> None:
    """Draw training images as the network sees them: after cropping, augmentation and mixing, with their
    targets, masks or boxes.

    The picture shows the first images of the batch of one step, exactly those that a run with this config trains on.

    With a data set's name instead of a config, it shows the first examples as the data set gives them:
    images with masks, boxes and the outlines of instances, or clips as rows of frames.

    Args:
        config: A config file, such as configs/digits.py, or a data set's name, such as digit_scenes.
        overrides: Changes to the config, as train.py takes them, after two dashes.
        out: The PNG to write.
        images: How many images of the batch, or examples of the data set.
        step: The number of the update, from 1 as in the log.
        split: The split, where a data set is named instead of a config; by default train.
        exif: For such a data set: turn photographs upright, as data.exif does in a config.
    """
    from resnet_jax.config_files import load_config
    from resnet_jax.errors import DataError
    from resnet_jax.tasks.classify.show import training_batch

    check_picture(out)
    if images < 1 or step < 1:
        raise DataError(f"--images = {images} and --step = {step} must be at least 1")
    is_config = config.suffix == ".py" or config.is_file()
    if is_config and (split is not None or exif):
        option = f"--split = {split}" if split is not None else "--exif"
        raise DataError(
            f"{option} is for a data set's name, such as digit_scenes, and {config} is a config; leave it out "
            "to see what the config trains on, or give a name"
        )
    if not is_config and (overrides or step != 1):
        raise DataError(
            f"--step and changes of a config are for a config, such as configs/digits.py, and {config} is no file; "
            "correct the path, or give a data set's name alone"
        )
    if not is_config:
        from resnet_jax.commands.draw_examples import draw_examples

        split = split or "train"
        shown = draw_examples(str(config), split, images, out, exif=exif)
        plain_console().print(f"{shown} examples of {config}, split {split}, are in {out}", soft_wrap=True)
        return
    chosen = load_config(config, overrides)
    title = f"{chosen.data.name}, {chosen.data.train_split}: what the network sees in step {step} of seed {chosen.seed}"
    if isinstance(chosen.task, Segment):
        from resnet_jax.commands.draw_examples import draw_masked
        from resnet_jax.tasks.segment.show import training_batch as masked_batch
        from resnet_jax.tasks.table import settled

        masked = masked_batch(settled(chosen), step)
        draw_masked(masked.images[:images], masked.masks[:images], masked.class_names, title, out)
        _say(min(images, len(masked.images)), len(masked.images), step, out)
        return
    if isinstance(chosen.task, Detect):
        from resnet_jax.commands.draw_examples import draw_boxed
        from resnet_jax.tasks.detect.show import training_batch as boxed_batch
        from resnet_jax.tasks.table import settled

        boxed = boxed_batch(settled(chosen), step)
        draw_boxed(boxed.images[:images], boxed.objects[:images], boxed.class_names, title, out)
        _say(min(images, len(boxed.images)), len(boxed.images), step, out)
        return
    batch = training_batch(chosen, step)
    shown = min(images, len(batch.images))
    captions = [target_caption(target, batch.class_names) for target in batch.targets[:shown]]
    draw_grid(list(batch.images[:shown]), captions, title, _describe(chosen.data, batch.images.shape[1]), out)
    _say(shown, len(batch.images), step, out)


def _say(shown: int, count: int, step: int, out: Path) -> None:
    plain_console().print(f"{shown} of the {count} images of step {step} are in {out}", soft_wrap=True)


def target_caption(target: Float[np.ndarray, " K"], class_names: tuple[str, ...]) -> str:
    """The classes with weight in a target, the heaviest first: `tabby (73 %)` and `beagle (27 %)` on two lines."""
    named = [i for i in np.argsort(-target, kind="stable") if target[i] > MIXED]
    if len(named) == 1:
        return short(class_names[named[0]])
    return "\n".join(f"{short(class_names[i])} ({100 * target[i]:.0f} %)" for i in named)


def _describe(data: DataConfig, size: int) -> str:
    """The augmentation that is on: fields that differ from their default, and the two that are on by default."""
    default, chosen = AugmentConfig(), data.augment
    names = [field.name for field in dataclasses.fields(chosen) if field.name not in ("train_size", "resizes")]
    told = [name for name in names if getattr(chosen, name) != getattr(default, name) or getattr(chosen, name) is True]
    words = [f"{size} x {size} pixels"]
    for name in told:
        value, plain = getattr(chosen, name), name.replace("_", " ")
        words.append(plain if value is True else f"no {plain}" if value is False else f"{plain} {value}")
    unbroken = [word.replace(" ", "\N{NO-BREAK SPACE}") for word in words]
    return textwrap.fill("; ".join(unbroken).replace("trivial_augment_wide", "TrivialAugmentWide"), 110)
