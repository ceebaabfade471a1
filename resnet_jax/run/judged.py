"""How right detections are, in detail: of a run's evaluation, or of weights on any data set."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Array, Key

from resnet_jax import data
from resnet_jax.config import DataConfig, Detect, Eval
from resnet_jax.data import normalize
from resnet_jax.data.box_fills import EvalBoxes
from resnet_jax.data.canvases import Canvases
from resnet_jax.errors import ConfigError
from resnet_jax.run.evaluate import passing_all, split_and_pass
from resnet_jax.run.evaluate_network import labels_of
from resnet_jax.run.network import Network
from resnet_jax.run.predict import Run
from resnet_jax.tasks.detect.coco import Judged, judge, truth_of
from resnet_jax.tasks.detect.find import make_find
from resnet_jax.tasks.detect.measure import make_measure
from resnet_jax.tasks.detect.task import has_masks, make_padded
from resnet_jax.training.accumulate import Batch
from resnet_jax.training.evaluate import make_pass

NO_CLASS = "N/A"
"""What a class is called that no object has, where the numbers of classes have gaps."""


def judge_evaluation(run: Run, one: Eval) -> Judged:
    """The detections of a trained network in the split of an evaluation of its run, judged.

    Raises:
      DataError, ConfigError: the split cannot be read, or is not what the network was trained on.
    """
    source, look = split_and_pass(one, run.config, run.task, run.task.measure)
    _, rows = look(run.state.eval_variables)
    return judge(truth_of(source, masks="masks" in rows, exif=run.config.data.exif), rows)


def judge_data(network: Network, config: DataConfig, batch_size: int) -> Judged:
    """The detections of a network in `config.eval_split`, judged. Images are prepared as torchvision prepares them for
    it. What it finds of classes that the data set has not is left out.

    Raises:
      DataError: the split or an image cannot be read.
      ConfigError: examples without boxes, or without masks for a network that gives masks, or classes that the network
        does not know.
    """
    source, model = data.load_source(config, config.eval_split), network.model
    masks = has_masks(model) and "instances" in data.leaves_of(source)
    if text := data.missing_leaves(source, ("image", "boxes"), "an evaluation of boxes", f"data.name = {config.name}"):
        raise ConfigError(text)
    label_of = _labels(source.class_names, network.class_names, config.name)
    preset = replace(network.preset, exif=config.exif)
    canvases = Canvases(source, base=model.min_size, longest=model.max_size, exif=config.exif)
    fill = EvalBoxes(preset.mean, preset.channels, config.exif, (0, 0), model.min_size, model.max_size)
    parts = [
        (replace(fill, canvas=canvas.size, indices=tuple(canvas.indices)), data.Subset(source, canvas.indices))
        for canvas in canvases.groups(Detect.eval_canvases)
    ]

    def prepare(key: Key[Array, ""] | None, batch: Batch) -> Batch:
        return {**batch, "image": normalize(batch["image"], preset)}

    measure = make_measure(make_find(model), make_padded(prepare))
    _, rows = make_pass(measure, **passing_all(parts, config, batch_size))(network.variables)
    labels = np.where(rows["labels"] >= 0, label_of[np.maximum(rows["labels"], 0)], -1)
    kept = {name: values for name, values in rows.items() if masks or name != "masks"}
    return judge(truth_of(source, masks=masks, exif=config.exif), {**kept, "labels": labels})


def _labels(names: Sequence[str], known: Sequence[str], where: str) -> np.ndarray:
    """The data set's class of each class of the network; -1 = it has none."""
    real = [label for label, name in enumerate(names) if label and name != NO_CLASS]
    theirs = [label for label, name in enumerate(known) if label and name != NO_CLASS]
    found = labels_of([names[label] for label in real], [known[label] for label in theirs], where)
    label_of = np.full(len(known), -1)
    label_of[np.array(theirs)[found]] = real
    return label_of
