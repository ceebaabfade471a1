"""The linear probe: how well classes can be told apart by a linear function of a frozen network's features.

The protocol is that of Kornblith et al. 2019 (arXiv:1805.08974): features of the network as in evaluation, without
augmentation; multinomial logistic regression solved to its optimum by L-BFGS; the penalty chosen on a part of the
training set; then fitted to all of the training set. The test set is used only for what is reported.
"""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from resnet_jax import data
from resnet_jax.analysis.features import features, rows_of, stages_of
from resnet_jax.analysis.logistic import check_classes, check_finite, fit
from resnet_jax.analysis.neighbours import NEIGHBOURS, knn_predict
from resnet_jax.analysis.store import Features, check_folder
from resnet_jax.config import DataConfig
from resnet_jax.errors import ConfigError, DataError
from resnet_jax.models import init
from resnet_jax.models.headed import with_options
from resnet_jax.run.network import Network

log = logging.getLogger("resnet_jax")

STRENGTHS = tuple(float(x) for x in np.logspace(-5, 5, 11))
"""Values of C, for features whose variance is 1 on average. Those of other features are divided by their variance: the
stages of a network differ in it by orders of magnitude."""
RESULTS, PICTURE = "probe.json", "probe.png"
WRITTEN = ("train", "test", "random_train", "random_test", RESULTS, PICTURE)
"""What the folder of a probe may hold."""
HELD_OUT = 0.2
"""Part of each class of the training set on which C is chosen."""


@dataclass(frozen=True)
class StageProbe:
    """What can be read from one stage.

    Attributes:
      features: how many numbers there are for each image.
      c: the value of C that was chosen, as scikit-learn's `LogisticRegression(C=...)` has it.
      end_of_grid: whether it is the smallest or largest that was tried.
      chosen_with: accuracy on the part of the training set on which it was chosen.
      train_accuracy, accuracy, loss: of the probe, on the training set; on the test set, the mean cross-entropy too.
      knn_accuracy: of the nearest neighbours, on the test set.

    Of features that are not finite, all numbers are nan.
    """

    stage: str
    features: int
    c: float
    end_of_grid: bool
    chosen_with: float
    train_accuracy: float
    accuracy: float
    loss: float
    knn_accuracy: float


@dataclass(frozen=True)
class Probe:
    """The probes of a network, and of a random one of the same shape beside it.

    Attributes:
      title, data: what was probed, and on what, for people.
      random: of the network with random parameters. Its running statistics are as initialised (mean 0, variance 1), so
        nothing in it is normalised. Empty if it was not asked for.
      train_images, test_images: how many there are.
      neighbours: that vote in `knn_accuracy`.
      most_frequent: the share of the most frequent class in the test set: the accuracy of naming it always.
    """

    title: str
    data: str
    stages: tuple[StageProbe, ...]
    random: tuple[StageProbe, ...]
    classes: int
    train_images: int
    test_images: int
    neighbours: int
    most_frequent: float


def probe(
    network: Network,
    config: DataConfig,
    folder: str | os.PathLike[str],
    *,
    stages: Sequence[str] = (),
    random: bool = True,
    seed: int = 0,
    batch_size: int = 64,
    tell: Callable[[str, int, int], None] = lambda what, done, count: None,
) -> Probe:
    """Probes stages of a network on a data set. The network does not change.

    Args:
      config: names the data set and its splits, `train_split` and `eval_split`.
      folder: where features are kept, in folders `train`, `test`, `random_train` and `random_test`. Those that are
        there are used again if they are of the same weights and data, and made anew if not.
      stages: names of what the network puts out, see `analysis.features`; empty = `stage1` to the last, and `pooled`.
        Maps are averaged over space.
      random: probe also a network of the same shape with random parameters.
      seed: of the part of the training set on which C is chosen, and of the random network.
      tell: is told of progress: of what, and how many are done, of how many.

    Raises:
      ConfigError: a stage that the network lacks, splits of other classes, or a folder that belongs to something else.
      DataError: data that cannot be read, an empty split, fewer than two classes, or features that are not finite.
      StorageError: the folder cannot be written to.
    """
    check_folder(Path(folder), WRITTEN, "a probe")
    every = [stage for stage in stages_of(network) if stage.startswith("stage")]
    stages = tuple(dict.fromkeys(stages or (*every, "pooled")))
    rows_of(network, stages, maps=False, dtype="float32")  # only to refuse unknown stages at once
    source = data.load_source(config, config.train_split)
    if "label" in data.leaves_of(source):  # what it lacks, `features` says
        check_classes(source.labels())
        others = data.load_source(config, config.eval_split).class_names
        if others != source.class_names:
            raise ConfigError(
                f"the classes of {config.name} {config.train_split} and {config.eval_split} are not the same, and a "
                "probe tells on one which class of the other it is; name two splits of the same classes, by "
                "--data.train-split and --data.eval-split"
            )

    def splits(of: Network, prefix: str, finite: bool) -> tuple[Features, Features]:
        made = []
        for name, split in (("train", config.train_split), ("test", config.eval_split)):
            made.append(
                features(
                    *(of, config, split, stages, Path(folder) / f"{prefix}{name}"),
                    batch_size=batch_size,
                    replace_others=True,
                    finite=finite,
                    tell=partial(tell, f"{prefix.replace('_', ' ')}{name}"),
                )
            )
        return made[0], made[1]

    train, test = splits(network, "", True)
    pairs = [(train, test)]
    if random:
        pairs.append(splits(untrained(network, seed), "random_", False))
    found: list[StageProbe] = []
    for pair in pairs:
        for stage in stages:
            tell("probes", len(found), len(pairs) * len(stages))
            found.append(_probe_stage(stage, *pair, seed))
    tell("probes", len(found), len(found))
    labels = test.labels
    return Probe(
        title=network.title,
        data=config.name,
        stages=tuple(found[: len(stages)]),
        random=tuple(found[len(stages) :]),
        classes=len(train.class_names),
        train_images=len(train.labels),
        test_images=len(labels),
        neighbours=min(NEIGHBOURS, len(train.labels)),
        most_frequent=float(np.bincount(labels).max() / len(labels)),
    )


def untrained(network: Network, seed: int) -> Network:
    """The network with random parameters, and running statistics as initialised. It computes in float32: without
    normalisation, activations grow from block to block."""
    model = with_options(network.model, dtype=jnp.float32)
    variables = init(model, jax.random.key(seed), channels=network.preset.channels)
    return replace(network, title=f"{network.title}, untrained", model=model, variables=variables)


def _probe_stage(stage: str, train: Features, test: Features, seed: int) -> StageProbe:
    here, there = train[stage], test[stage]
    if not (np.isfinite(here).all() and np.isfinite(there).all()):
        nan = float("nan")
        return StageProbe(stage, here.shape[1], nan, False, nan, nan, nan, nan, nan)
    return probe_features(here, train.labels, there, test.labels, stage=stage, seed=seed)


def probe_features(
    train: Float[np.ndarray, "N D"],
    train_labels: Int[np.ndarray, " N"],
    test: Float[np.ndarray, "M D"],
    test_labels: Int[np.ndarray, " M"],
    *,
    stage: str = "",
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> StageProbe:
    """Chooses C on a part of the training set, fits to all of it, and measures on the test set.

    Args:
      stage: what the features are called in the result.
      strengths: values of C, for features of variance 1.
      seed: of the part of the training set.

    Raises:
      DataError: features that are not finite, fewer than two classes, or no class with two images.
    """
    check_finite(train, "the training features")
    check_finite(test, "the test features")
    held = held_out(train_labels, HELD_OUT, seed)
    # float64: the squares of an untrained network's features may not fit float32.
    variance = float(np.var(train, axis=0, dtype=np.float64).mean()) or 1.0
    cs = [strength / variance for strength in strengths]
    tried = fit(train[~held], train_labels[~held], cs)
    accuracies = np.mean(tried.predict(train[held]) == train_labels[held], axis=1)
    losses = [cross_entropy(logits, tried.classes, train_labels[held]) for logits in tried.logits(train[held])]
    best = int(np.lexsort((losses, -accuracies))[0])  # of equally accurate ones, that of the smallest loss
    final = fit(train, train_labels, cs[best : best + 1])
    neighbours = min(NEIGHBOURS, len(train))
    voted = knn_predict(train, train_labels, test, neighbours=neighbours)
    return StageProbe(
        stage=stage,
        features=train.shape[1],
        c=cs[best],
        end_of_grid=best in (0, len(cs) - 1),
        chosen_with=float(accuracies[best]),
        train_accuracy=float(np.mean(final.predict(train)[0] == train_labels)),
        accuracy=float(np.mean(final.predict(test)[0] == test_labels)),
        loss=cross_entropy(final.logits(test)[0], final.classes, test_labels),
        knn_accuracy=float(np.mean(voted == test_labels)),
    )


def held_out(labels: Int[np.ndarray, " N"], part: float, seed: int) -> Bool[np.ndarray, " N"]:
    """Which images are held out: this part of each class, rounded, and never the whole of a class.

    Raises:
      DataError: of every class there is only one image.
    """
    rng = np.random.default_rng([seed, len(labels)])
    held = np.zeros(len(labels), bool)
    sizes = {}
    for label in np.unique(labels):
        of_class = rng.permutation(np.flatnonzero(labels == label))
        sizes[label] = len(of_class)
        held[of_class[: min(round(part * len(of_class)), len(of_class) - 1)]] = True
    if not held.any():  # small classes only
        largest = max(sizes, key=lambda label: sizes[label])
        if sizes[largest] < 2:
            raise DataError(
                f"each of the {len(sizes)} classes has one image, and none can be held out to choose the penalty; at "
                "least one class needs two. Bring more images"
            )
        held[np.flatnonzero(labels == largest)[0]] = True
    return held


def cross_entropy(
    logits: Float[np.ndarray, "N K"], classes: Int[np.ndarray, " K"], labels: Int[np.ndarray, " N"]
) -> float:
    """The mean over the images; infinite if one has a label that is not among the classes."""
    logits = logits.astype(np.float64)
    top = logits.max(axis=1, keepdims=True)
    log_total = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
    known = np.isin(labels, classes)
    if not known.all():
        return float("inf")
    return float(np.mean(log_total - logits[np.arange(len(labels)), np.searchsorted(classes, labels)]))
