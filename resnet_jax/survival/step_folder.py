"""One checkpoint is one folder, written by Orbax under a temporary name and renamed when complete:

    00000120/state    the training state: parameters, statistics, optimiser, rng, step
    00000120/record   JSON: what else the run must remember, the digests of every array, and a digest of all this
    00000120/metrics  JSON: the report of the last evaluation, where Orbax looks for the best checkpoints

Reading a checkpoint either gives exactly what was saved or raises `Damaged`.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jaxtyping import PyTree

from resnet_jax.errors import CheckpointError
from resnet_jax.survival.digests import by_name, describe, digest_arrays, digest_json

Record = dict[str, Any]


class Damaged(Exception):
    """A checkpoint cannot be read, or is not what was saved. The message says why."""


def make_record(state: PyTree, memory: Mapping[str, Any], metrics: Mapping[str, float]) -> Record:
    """The record that is saved beside the state. `memory` is what else the run must remember, as JSON.

    Raises:
      TypeError: `memory` is not JSON.
    """
    record = {"memory": memory, "metrics": metrics, "arrays": describe(state), "digests": digest_arrays(state)}
    record = json.loads(json.dumps(record))  # a copy, since a thread writes it later
    return record | {"digest": digest_json(record)}


SINCE = {"ema_due": 0.0}
"""Numbers of a state that older checkpoints lack, and what they were then."""


def read_record(path: epath.Path) -> Record:
    """The record of a step's folder. Raises `Damaged` for everything wrong that shows without reading the arrays."""
    if not ocp.utils.is_checkpoint_finalized(path):
        raise Damaged("its save was never finished")
    record, metrics = _read_json(path / "record" / "metadata"), _read_json(path / "metrics" / "metrics")
    whole = isinstance(record, dict) and record.keys() == {"memory", "metrics", "arrays", "digests", "digest"}
    if not whole or record.pop("digest") != digest_json(record):
        raise Damaged("record/metadata: the content is not what was saved")
    if digest_json(metrics) != digest_json(record["metrics"]):  # compared as text, in which nan equals nan
        raise Damaged("metrics/metrics: the content is not what was saved")
    return record


def read_state(path: epath.Path, record: Record, like: PyTree) -> PyTree:
    """The state as Orbax reads it, with the names, types and shapes that were saved. Processes need not act together.

    Raises:
      Damaged: the files cannot be read, or list other arrays than those that were saved.
      CheckpointError: `like` is another model or optimiser.
    """
    asked = by_name(jax.tree.map(_with_sharding, like))
    later = {name: SINCE[name] for name in asked if name in SINCE and name not in record["arrays"]}
    _check_same_model(record["arrays"], {name: x for name, x in describe(like).items() if name not in later}, path)
    # The handler, and not a Checkpointer around it: a Checkpointer would wait for the other processes even if this one
    # fails.
    with contextlib.closing(ocp.StandardCheckpointHandler()) as reader, _any_error_is_damage():
        saved = _read_listing(reader, path, record)
        # The arrays are the same, but their tree may differ: later versions may have added empty branches.
        template = jax.tree.unflatten(jax.tree.structure(saved), [asked[name] for name in by_name(saved)])
        arrays = by_name(reader.restore(path / "state", args=ocp.args.StandardRestore(template)))
        for name, value in later.items():
            leaf, number = asked[name], np.asarray(value, asked[name].dtype)
            arrays[name] = jax.make_array_from_callback(leaf.shape, leaf.sharding, number.__getitem__)
        return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in by_name(like)])


def check_listing(path: epath.Path, record: Record) -> None:
    """Raises `Damaged` if the files lack arrays of the names, types and shapes in `record`. It reads no array."""
    with contextlib.closing(ocp.StandardCheckpointHandler()) as reader, _any_error_is_damage():
        _read_listing(reader, path, record)


def check_digests(state: PyTree, record: Record) -> None:
    """Raises `Damaged` if an array is not bit for bit what was saved. All processes must call it together."""
    found = digest_arrays(state)
    wrong = [name for name, digest in record["digests"].items() if found.get(name) != digest]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise Damaged(f"the content of {wrong[0]}{more} is not what was saved")


def _read_listing(reader: ocp.StandardCheckpointHandler, path: epath.Path, record: Record) -> PyTree:
    saved = reader.metadata(path / "state").tree
    if describe(saved) != record["arrays"]:
        raise Damaged("state: names, types or shapes of the arrays are not those saved")
    return saved


def _read_json(path: epath.Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(f"{path.parent.name}/{path.name}: {error}") from error


@contextlib.contextmanager
def _any_error_is_damage() -> Iterator[None]:
    try:
        yield
    except Damaged:
        raise
    except Exception as error:  # the errors of Orbax, TensorStore, zarr and JSON have no class in common
        cause = error.__cause__ or error
        reason = str(cause).partition(" [tensorstore_spec")[0].strip()
        raise Damaged(f"{type(cause).__name__}: {reason}") from error


def _check_same_model(saved: dict[str, str], asked: dict[str, str], path: epath.Path) -> None:
    missing, extra = asked.keys() - saved.keys(), saved.keys() - asked.keys()
    lines = [f"{name}: not in the checkpoint" for name in sorted(missing)]
    lines += [f"{name}: only in the checkpoint" for name in sorted(extra)]
    lines += [
        f"{name}: {saved[name]} (saved) != {asked[name]} (asked)"
        for name in asked
        if name in saved and saved[name] != asked[name]
    ]
    if lines:
        shown = lines[:10] + [f"and {len(lines) - 10} more"] * (len(lines) > 10)
        raise CheckpointError(
            f"{path} was saved with another model or optimiser; {len(lines)} arrays differ:\n  "
            + "\n  ".join(shown)
            + "\nUse the config it was trained with, or another workdir."
        )


def _with_sharding(leaf: jax.Array | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
