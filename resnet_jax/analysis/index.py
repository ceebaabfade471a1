"""An index of identities: their embeddings in a file, and the nearest of them to others."""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from resnet_jax.analysis.features import describe_network
from resnet_jax.analysis.search import nearest
from resnet_jax.analysis.store import differences
from resnet_jax.errors import DataError
from resnet_jax.files import write_atomically
from resnet_jax.models.resnet import FOR_TRAINING
from resnet_jax.run.embedding import ImageEmbedder
from resnet_jax.survival.digests import digest_arrays, digest_json

Keep = Literal["mean", "all"]
SUFFIXES = (".npz", ".safetensors")
VERSION = 1
_ARRAYS = ("vectors", "identities", "lengths")
_UNIT = 1e-3  # how far the length of a vector may be from 1
_SHORTEST = 1e-3  # the length of a mean, below which it has no direction


@dataclass(frozen=True)
class Index:
    """Embeddings of known identities.

    Attributes:
      of: what made them, as JSON: digest of the weights, network, preparation of images, mirror images.
      title: of the network, for people.
      keep: one vector for each identity, the direction of the mean of its embeddings, or all of them.
      names: of the identities.
      vectors: of length 1.
      identities: the place in `names` of each.
      lengths: of the sum of the embeddings whose direction a vector is, so that more can be added.
    """

    of: Mapping[str, Any]
    title: str
    keep: Keep
    names: tuple[str, ...]
    vectors: Float[np.ndarray, "M E"]
    identities: Int[np.ndarray, " M"]
    lengths: Float[np.ndarray, " M"]


class Match(NamedTuple):
    """An identity, and the cosine of its nearest vector."""

    name: str
    cosine: float


def describe_embedder(embedder: ImageEmbedder) -> dict[str, Any]:
    """What an embedding depends on besides its image, as JSON."""
    of = describe_network(embedder.network, embedder.preset)
    return of | {"network": _lasting(of["network"]), "mirror_images": embedder.flip}


def _lasting(options: Mapping[str, Any]) -> dict[str, Any]:
    """Without the options that a file of the same weights does not have: those of training, and the size of images,
    which their preparation says."""
    kept = {name: value for name, value in options.items() if name not in (*FOR_TRAINING, "dropout", "sides")}
    return {name: _lasting(value) if isinstance(value, dict) else value for name, value in kept.items()}


def enrolled(
    embedder: ImageEmbedder,
    vectors: Float[np.ndarray, "N E"],
    names: Sequence[str],
    keep: Keep,
    into: Index | None = None,
) -> Index:
    """An index of embeddings, or one to which they are added.

    Args:
      names: the identity of each vector.
      keep: of a new index.

    Raises:
      DataError: embeddings of an identity that cancel out, so that their mean has no direction.
    """
    keep = into.keep if into else keep
    known = list(dict.fromkeys([*(into.names if into else ()), *names]))
    place = {name: i for i, name in enumerate(known)}
    identities = np.array([place[name] for name in names], np.int32)
    lengths = np.ones(len(vectors), np.float32)
    if into:
        vectors = np.concatenate([into.vectors * into.lengths[:, None], vectors])
        identities = np.concatenate([into.identities, identities])
        lengths = np.concatenate([into.lengths, lengths])
    vectors = vectors.astype(np.float64)
    if keep == "mean":
        total = np.zeros((len(known), vectors.shape[1]))
        np.add.at(total, identities, vectors)
        vectors, identities = total, np.arange(len(known), dtype=np.int32)
        lengths = np.linalg.norm(vectors, axis=1)
        if len(short := np.flatnonzero(lengths < _SHORTEST)):
            raise DataError(
                f"the embeddings of {known[short[0]]} cancel out, and their mean has no direction; keep them all, by "
                "--keep all"
            )
    vectors = (vectors / lengths[:, None]).astype(np.float32)
    title, of = embedder.network.title, describe_embedder(embedder)
    return Index(of, title, keep, tuple(known), vectors, identities, lengths.astype(np.float32))


def identify(index: Index, queries: Float[np.ndarray, "N E"], top: int) -> list[list[Match]]:
    """For each embedding the `top` nearest identities, the nearest first, each by its nearest vector."""
    # Even if each of the nearest identities has the most vectors, `top` of them are among this number.
    most = int(np.bincount(index.identities).max())
    count = min(len(index.vectors), (min(top, len(index.names)) - 1) * most + 1)
    places, cosines = nearest(index.vectors, queries, neighbours=count)
    found = []
    for row, values in zip(index.identities[places], cosines, strict=True):
        _, first = np.unique(row, return_index=True)
        order = np.sort(first)[:top]
        found.append([Match(index.names[row[i]], float(values[i])) for i in order])
    return found


def write_index(index: Index, path: Path) -> None:
    """Writes an index as `.npz` or `.safetensors`: whole or not at all.

    Raises:
      StorageError: it cannot be written.
    """
    arrays = {name: np.ascontiguousarray(getattr(index, name)) for name in _ARRAYS}
    described: dict[str, Any] = {
        "version": VERSION,
        "of": dict(index.of),
        "network": index.title,
        "keep": index.keep,
        "names": list(index.names),
    }
    text = json.dumps({**described, "digest": _digest(described, arrays)})
    if path.suffix.lower() == ".npz":
        file = io.BytesIO()
        everything: dict[str, Any] = {**arrays, "index": np.array(text)}
        np.savez(file, **everything)
        content = file.getvalue()
    else:
        from safetensors.numpy import save

        content = save(arrays, {"index": text})
    write_atomically(path, content)


def read_index(path: Path, embedder: ImageEmbedder) -> Index:
    """An index that `resnet_jax enroll` has written with the same network.

    Raises:
      DataError: there is none, it is damaged, or another network made it.
    """
    if not path.is_file():
        raise DataError(f"there is no index {path}; make it with `resnet_jax enroll`, or correct the path")
    try:
        text, arrays = _read(path)
        described = json.loads(text)
        digest = described.pop("digest")
        if described["version"] != VERSION:
            raise ValueError(f"it is of version {described['version']}, and this program reads {VERSION}")
        if digest != _digest(described, arrays):
            raise ValueError("its content is not what was written")
        index = Index(described["of"], described["network"], described["keep"], tuple(described["names"]), **arrays)
    except Exception as error:  # safetensors and zip files raise many kinds of errors
        raise DataError(
            f"{path} is no index, or is damaged: {error or type(error).__name__}. Enrol the images again, or bring "
            "back a copy"
        ) from error
    if differ := differences(index.of, json.loads(json.dumps(describe_embedder(embedder)))):
        raise DataError(
            f"{path} was made by another network, {index.title}, with {differ} than {embedder.network.title}; their "
            "embeddings cannot be compared. Name the network that made it, or enrol the images with this one"
        )
    if not np.isfinite(index.vectors).all() or abs(np.linalg.norm(index.vectors, axis=1) - 1).max() > _UNIT:
        raise DataError(
            f"{path} holds embeddings that are not finite (infinite or not a number) or not of length 1, and nothing "
            "can be compared with them; enrol the images again"
        )
    return index


def _read(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    if zipfile.is_zipfile(path):
        with np.load(path, allow_pickle=False) as file:
            return str(file["index"]), {name: file[name] for name in _ARRAYS}
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        return file.metadata()["index"], {name: file.get_tensor(name) for name in _ARRAYS}


def _digest(described: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    return digest_json([dict(described), digest_arrays(jax.tree.map(jnp.asarray, dict(arrays)))])
