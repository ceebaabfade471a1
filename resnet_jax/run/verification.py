"""Which cosine is enough: verification on the splits of a run or of any data, and thresholds for rates of errors."""

import io
import json
import logging
import math
import zipfile
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from resnet_jax import data
from resnet_jax.compress import Folded
from resnet_jax.config import DataConfig, Embed, Eval
from resnet_jax.data import normalize
from resnet_jax.errors import ConfigError, StorageError
from resnet_jax.files import open_folder, write_atomically
from resnet_jax.run.embedding import ImageEmbedder
from resnet_jax.run.evaluate import passing, split_and_pass
from resnet_jax.run.named import network_of
from resnet_jax.run.predict import Run
from resnet_jax.survival.digests import digest_arrays, digest_json
from resnet_jax.tasks.embed.measure import Verified, every_pair, make_embed, make_measure, verified
from resnet_jax.tasks.embed.task import check_leaves, fill_of
from resnet_jax.tasks.embed.verification import LEAST_ACCEPTED, curve
from resnet_jax.training.evaluate import Rows, make_pass

log = logging.getLogger("resnet_jax")
FILE = "verification.npz"
"""In a run's folder: the embeddings of its evaluation split, from which thresholds are read."""


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold, and what it does on a split.

    Attributes:
      threshold: the cosine from which on two images count as one identity.
      far: the rate of false accepts that was asked for.
      accepted: share of the pairs of one identity that are accepted.
      split: whose pairs they are.
      pairs, others: number of all pairs, and of those of different identities.
    """

    threshold: float
    far: float
    accepted: float
    split: str
    pairs: int
    others: int


def verify_evaluation(run: Run, one: Eval, folded: Folded | None = None) -> Verified:
    """Verification on the split of an evaluation of a run.

    Args:
      folded: the network after folding, which is looked at instead of the network as it was trained.

    Raises:
      DataError, ConfigError: the split cannot be read, or embeddings are not finite.
    """
    options, task = run.config.task, run.task
    assert isinstance(options, Embed)
    measure, variables = task.measure, run.state.eval_variables
    if folded:
        measure, variables = make_measure(make_embed(folded.model, flip=options.eval_flip), task.prepare), folded[1]
    _, look = split_and_pass(one, run.config, task, measure)
    return verified(look(variables)[1])


def verify_data(embedder: ImageEmbedder, config: DataConfig, batch_size: int) -> Verified:
    """Verification on `config.eval_split`, whose images are prepared as the network wants them.

    Raises:
      DataError, ConfigError: the split cannot be read, it has neither identities nor pairs, or embeddings are not
        finite.
    """
    source = data.load_source(config, config.eval_split)
    check_leaves(config.name, source)
    fill = fill_of(source, embedder.preset)
    network, preset = embedder.network, embedder.preset
    measure = make_measure(
        make_embed(network.model, flip=embedder.flip),
        lambda key, batch: {**batch, "image": normalize(batch["image"], preset)},
    )
    return verified(make_pass(measure, **passing(source, config, fill, batch_size))(network.variables)[1])


def operating_point(run: Run, workdir: epath.PathLike, far: float) -> OperatingPoint:
    """The threshold at which a rate of false accepts is not exceeded on the split of the run's first evaluation.

    The embeddings of the split are computed once for a checkpoint, and kept in the run's folder.

    Raises:
      ConfigError: no rate, or one for which the split has too few pairs.
      DataError: the split cannot be read, or embeddings are not finite.
    """
    if not 0 < far < 1:
        raise ConfigError(f"--far = {far} is a rate of false accepts; it must lie between 0 and 1, such as 0.001")
    one = run.config.evaluations[0]
    split = f"{one.data or run.config.data.name} {one.split}"
    found = curve(*(pairs := every_pair(_kept(run, workdir, one, split))))
    at = found.at(far)
    if at is None:
        raise ConfigError(
            f"--far = {far:g}: {split} has {found.others:,} pairs of different identities, too few pairs: "
            f"{LEAST_ACCEPTED} false accepts at this rate need {math.ceil(LEAST_ACCEPTED / far):,}. "
            + _remedy(found.others)
        )
    return OperatingPoint(at[1], far, at[0], split, len(pairs[1]), found.others)


def _remedy(others: int) -> str:
    """Which rate can be measured, rounded up to two digits."""
    least = LEAST_ACCEPTED / max(others, 1)
    step = 10.0 ** (math.floor(math.log10(least)) - 1)
    rounded = math.ceil(least / step) * step
    if rounded >= 1:
        return "Give --threshold, or evaluate the run on more images"
    return f"Choose --far {rounded:g} or more, give --threshold, or evaluate the run on more images"


def _kept(run: Run, workdir: epath.PathLike, one: Eval, split: str) -> Rows:
    """The embeddings of a split: those that the run's folder has, if they are of this checkpoint and these images."""
    source, look = split_and_pass(one, run.config, run.task, run.task.measure)
    network, options = network_of(run), run.config.task
    assert isinstance(options, Embed)
    of = {
        "split": split,
        "data": data.fingerprint(source),
        "weights": digest_json(digest_arrays(jax.tree.map(jnp.asarray, dict(network.variables)))),
        "preparation": asdict(network.preset),
        "flip": options.eval_flip,
    }
    path, text = open_folder(workdir) / FILE, json.dumps(of, sort_keys=True)
    if (kept := _read(path, text)) is not None:
        return kept
    _, rows = look(run.state.eval_variables)
    file = io.BytesIO()
    arrays: dict[str, Any] = {**rows, "of": np.array(text)}
    np.savez(file, **arrays)
    try:
        write_atomically(path, file.getvalue())
    except StorageError as error:
        log.warning("%s. The embeddings of %s are computed anew each time", error, split)
    return rows


def _read(path: epath.Path, of: str) -> Rows | None:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            return {name: file[name] for name in file.files if name != "of"} if str(file["of"]) == of else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # not there, or damaged
        return None
