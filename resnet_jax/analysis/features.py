"""The features of a network: what its stages put out for every image of a split, kept on disk."""

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, PyTree

from resnet_jax import data
from resnet_jax.analysis.store import LABEL, Features, Row, Writer, open_features
from resnet_jax.config import DataConfig, Preset
from resnet_jax.data import normalize
from resnet_jax.data.fills import EvalImage
from resnet_jax.errors import ConfigError, DataError
from resnet_jax.models import ResNet
from resnet_jax.run.evaluate import passing
from resnet_jax.run.network import Network
from resnet_jax.survival.digests import digest_arrays, digest_json
from resnet_jax.training.accumulate import Batch
from resnet_jax.training.evaluate import Measure, Measured, make_pass

log = logging.getLogger("resnet_jax")

Kind = Literal["float16", "float32"]


def features(
    network: Network,
    config: DataConfig,
    split: str,
    stages: Sequence[str],
    folder: str | os.PathLike[str],
    *,
    maps: bool = False,
    dtype: Kind = "float32",
    batch_size: int = 64,
    replace_others: bool = False,
    finite: bool = True,
    tell: Callable[[int, int], None] = lambda done, count: None,
) -> Features:
    """The features of every image of a split, from a folder that has them already, or computed into it.

    The network is as in evaluation: running statistics, no augmentation, images prepared as the network wants them. A
    folder that was left half-way is continued. Its digests tell other weights, another preparation, and data with other
    classes, labels or length; of the images 16 are looked at.

    Args:
      stages: names of what the network puts out: `stem`, `stage1`, ..., `pooled`, `logits`.
      maps: keep whole maps (H, W, C), not their means over space (C).
      dtype: of the arrays on disk.
      replace_others: make features of something else anew, and say so in the log, instead of refusing the folder.
      finite: refuse features that are not finite.
      tell: is told of progress: rows that are written, of how many.

    Raises:
      ConfigError: a stage that the network lacks, or a folder that belongs to something else.
      DataError: the split or an image cannot be read, there are no images, or features are not finite.
      StorageError: the folder cannot be written to.
    """
    source = data.load_source(config, split)
    if text := data.missing_leaves(source, EvalImage.needs, "a store of features", f"data.name = {config.name}"):
        raise ConfigError(text)
    if not len(source):
        raise DataError(f"{config.name} {split} holds 0 images; features need at least one. Choose another split")
    preset = replace(network.preset, exif=config.exif)
    rows = rows_of(network, stages, maps=maps, dtype=dtype)
    of = describe(network, preset, source, maps=maps)
    writer = Writer(folder, of, rows, source.class_names, len(source), replace=replace_others)
    if writer.replaced:
        log.warning("%s held features of %s; they are made anew", folder, writer.replaced)
    with writer:
        if writer.done < len(source):
            measure = make_measure(network.model, preset, writer.stages, maps=maps, dtype=dtype)
            begun = writer.done

            def keep(batch: Mapping[str, np.ndarray]) -> None:
                if finite:
                    _check_finite(batch, writer.stages, writer.done, f"{config.name} {split}", dtype)
                writer.write(batch)
                tell(writer.done, len(source))

            tell(begun, len(source))
            fill = EvalImage(preset)
            make_pass(measure, **passing(source, config, fill, batch_size, begun), keep=keep)(network.variables)
    return open_features(folder)


def stages_of(network: Network) -> dict[str, tuple[int, ...]]:
    """The shape of what each stage of the network puts out for one image, by name, in order."""
    side = network.preset.crop
    image = jax.ShapeDtypeStruct((1, side, side, network.preset.channels), jnp.float32)
    shapes = jax.eval_shape(
        lambda v, x: network.model.apply(v, x, train=False, features=True), network.variables, image
    )
    order = {"stem": 0, "activated": 2, "pooled": 3, "embedding": 4, "logits": 4}
    return {stage: shapes[stage].shape[1:] for stage in sorted(shapes, key=lambda name: (order.get(name, 1), name))}


def rows_of(network: Network, stages: Sequence[str], *, maps: bool, dtype: Kind) -> dict[str, Row]:
    """Shape and type of one row of the features of each stage.

    Raises:
      ConfigError: a stage that the network lacks, or none.
    """
    known = stages_of(network)
    wrong = [stage for stage in stages if stage not in known]
    if wrong or not stages:
        near = [one for stage in wrong for one in get_close_matches(stage, known, n=1)]
        meant = f"did you mean {' and '.join(map(repr, dict.fromkeys(near)))}? Its" if near else "its"
        raise ConfigError(
            f"{network.title} has no stage {', '.join(map(repr, wrong)) or 'without a name'}; {meant} stages are "
            f"{', '.join(known)}. Name some of these"
        )
    return {stage: (known[stage] if maps else known[stage][-1:], np.dtype(dtype)) for stage in stages}


def make_measure(model: ResNet, preset: Preset, stages: Sequence[str], *, maps: bool, dtype: Kind) -> Measure:
    """Returns a function that keeps the features and the label of every image."""

    def measure(variables: PyTree[Array], batch: Batch, real: Bool[Array, " N"]) -> Measured:
        out = model.apply(variables, normalize(batch["image"], preset), train=False, features=True)
        kept = {stage: out[stage] if maps else over_space(out[stage]) for stage in stages}
        return Measured({}, {**{stage: x.astype(dtype) for stage, x in kept.items()}, LABEL: batch["label"]})

    return measure


def over_space(x: Array) -> Array:
    """(N, H, W, C) -> the means over the map, (N, C) float32. What has no map stays as it is."""
    return jnp.mean(x.astype(jnp.float32), axis=tuple(range(1, x.ndim - 1)))


def describe(network: Network, preset: Preset, source: data.Source, *, maps: bool) -> dict[str, Any]:
    """What features are of, as JSON: all that they depend on."""
    labels = np.ascontiguousarray(source.labels(), np.int64)
    return describe_network(network, preset) | {
        "data": digest_json([data.fingerprint(source), hashlib.sha256(labels.tobytes()).hexdigest()]),
        "kind_of_features": "whole maps" if maps else "means over space",
    }


def describe_network(network: Network, preset: Preset) -> dict[str, Any]:
    """What the features of any image depend on, as JSON."""
    return {
        "weights": digest_json(digest_arrays(jax.tree.map(jnp.asarray, dict(network.variables)))),
        "network": _options_of(network.model),
        "preparation_of_images": preset.as_json(),
    }


def _options_of(model: nn.Module) -> dict[str, Any]:
    """The fields of a network, and of the one under its head, as JSON."""
    fields = {
        name: value
        for name in model.__dataclass_fields__
        if (value := getattr(model, name)) is not None and name not in ("parent", "name")
    }
    text = lambda value: getattr(value, "__qualname__", None) or str(value)
    return {name: _options_of(x) if isinstance(x, nn.Module) else text(x) for name, x in fields.items()}


def _check_finite(batch: Mapping[str, np.ndarray], stages: Sequence[str], first: int, where: str, dtype: Kind) -> None:
    for stage in stages:
        bad = np.flatnonzero(~np.isfinite(batch[stage].reshape(len(batch[stage]), -1)).all(axis=1))
        if len(bad):
            remedy = "keep them as float32" if dtype == "float16" else "see that the network was trained well"
            raise DataError(
                f"the features of {stage} for image {first + bad[0]} of {where} are not finite (infinite or not a "
                f"number), and nothing can be read from them; {remedy}"
            )
