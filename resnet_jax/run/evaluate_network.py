"""How right a network is whose weights come without a run, on any data set."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Array, Int, Key

from resnet_jax import data
from resnet_jax.config import DataConfig, Segment
from resnet_jax.data import normalize
from resnet_jax.data.canvases import Canvases
from resnet_jax.data.fills import EvalImage
from resnet_jax.data.mask_fills import EvalMask
from resnet_jax.data.sources.folder import folder_splits, holds_classes
from resnet_jax.errors import ConfigError
from resnet_jax.run.evaluate import passing, passing_all
from resnet_jax.run.network import Network
from resnet_jax.tasks.classify.look import make_look
from resnet_jax.tasks.classify.measure import make_measure, report_in_detail
from resnet_jax.tasks.classify.report import EvalReport
from resnet_jax.tasks.segment import measure as segment
from resnet_jax.training.accumulate import Batch
from resnet_jax.training.evaluate import make_evaluate, make_pass
from resnet_jax.weights.narrowing import first_few

FOLDER = "folder:"


def evaluate_network(network: Network, config: DataConfig, batch_size: int) -> EvalReport:
    """The detailed report of `config.eval_split`, whose images are prepared as the weights want them.

    Raises:
      DataError: the split or an image cannot be read.
      ConfigError: its classes are not those of the network.
    """
    source = data.load_source(config, config.eval_split)
    if text := data.missing_leaves(source, EvalImage.needs, "an evaluation", f"data.name = {config.name}"):
        raise ConfigError(text)
    labels = labels_of(source.class_names, network.class_names, config.name)
    fill = EvalImage(replace(network.preset, exif=config.exif), tuple(labels.tolist()))

    def prepare(key: Key[Array, ""] | None, batch: Batch) -> Batch:
        return {**batch, "image": normalize(batch["image"], network.preset)}

    measure = make_measure(make_look(network.model), prepare, in_detail=True)
    return report_in_detail(*make_pass(measure, **passing(source, config, fill, batch_size))(network.variables))


def evaluate_masks(network: Network, config: DataConfig, batch_size: int) -> dict[str, float]:
    """`loss`, `miou`, `pixel_accuracy`, `iou/CLASS` and `count` of a network that names a class for each pixel, for
    `config.eval_split`. Images are prepared as the weights want them.

    Raises:
      DataError: the split, an image or a mask cannot be read.
      ConfigError: its classes are not those of the network.
    """
    source = data.load_source(config, config.eval_split)
    if text := data.missing_leaves(source, EvalMask.needs, "an evaluation of masks", f"data.name = {config.name}"):
        raise ConfigError(text)
    labels = labels_of(source.class_names, network.class_names, config.name)
    if labels.tolist() != list(range(len(network.class_names))):
        raise ConfigError(
            f"the classes of {config.name} are not in the network's order: {', '.join(network.class_names)}. A mask "
            "holds their numbers, so write the masks anew with the network's"
        )
    preset = replace(network.preset, exif=config.exif)
    fill = EvalMask(preset.mean, preset.channels, preset.resize, (preset.resize,) * 2, preset.exif, len(labels))
    canvases = Canvases(source, base=preset.resize, exif=preset.exif).groups(Segment.eval_canvases)
    parts = [(replace(fill, canvas=canvas.size), data.Subset(source, canvas.indices)) for canvas in canvases]

    def prepare(key: Key[Array, ""] | None, batch: Batch) -> Batch:
        return {**batch, "image": normalize(batch["image"], preset)}

    measure = segment.make_measure(segment.make_score(network.model), prepare, len(labels))
    report = segment.make_report(lambda: source.class_names)
    return make_evaluate(measure, report, **passing_all(parts, config, batch_size))(network.variables)


def labels_of(names: Sequence[str], known: Sequence[str], where: str) -> Int[np.ndarray, " n"]:
    """The network's class of each class of a data set: by name; or where there are as many by number, or in order.

    Args:
      names: of the data set's classes; `known`, of the network's.
      where: what to call the data set.

    Raises:
      ConfigError: there is no telling.
    """
    place_of = {name: place for place, name in enumerate(known)}
    if all(name in place_of for name in names):
        return np.array([place_of[name] for name in names])
    as_many = len(names) == len(known)
    if as_many and sorted(int(name) if name.isdecimal() else -1 for name in names) == list(range(len(known))):
        return np.array([int(name) for name in names])  # folders are sorted as text: 0, 1, 10, 100
    moved = [name for place, name in enumerate(names) if place_of.get(name, place) != place]
    if as_many and not moved:
        return np.arange(len(names))
    strange = [name for name in names if name not in place_of]
    raise ConfigError(
        f"the network has {len(known)} classes and {where} has {len(names)}; {len(strange)} of these the network does "
        f"not know, or elsewhere: {first_few(strange or moved)}. Call them as the network does "
        "(resnet_jax.class_names()), or give as many classes in the network's order"
    )


def all_of_a_folder(config: DataConfig) -> DataConfig:
    """`folder:PATH` as the split PATH of the folder above it, where PATH holds classes and no splits; else as it is.

    So all images of such a folder are evaluated, unless `config.holdout` says which.
    """
    root = Path(os.path.abspath(os.path.expanduser(config.name.removeprefix(FOLDER))))
    if not config.name.startswith(FOLDER) or config.holdout or config.eval_split in folder_splits(root):
        return config
    if not holds_classes(root):
        return config
    return replace(config, name=f"{FOLDER}{root.parent}", train_split=root.name, eval_split=root.name)
