"""What the frozen part of a network gives, computed once and kept on disk, where nothing in a run changes it."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jaxtyping import Array, Bool, Int, PyTree

from resnet_jax import data
from resnet_jax.config import Config
from resnet_jax.data import Source
from resnet_jax.data.fills import Draws, Fill, Leaves, Row
from resnet_jax.files import cache_folder
from resnet_jax.run.evaluate import passing
from resnet_jax.run.start import Beginning
from resnet_jax.survival.digests import by_name, digest_arrays, digest_json
from resnet_jax.tasks.assemble import groups_and_phases
from resnet_jax.tasks.task import Task
from resnet_jax.training.accumulate import Batch
from resnet_jax.training.evaluate import Measured, Rows, make_pass
from resnet_jax.training.frozen import frozen_names


@dataclass(frozen=True)
class KeptRows:
    """A source whose examples are rows of arrays that were computed before.

    Attributes:
      source: from which they were computed; labels and names are its.
      arrays: one row for each of its examples.
    """

    source: Source
    arrays: Rows

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.source.class_names)

    @property
    def splits(self) -> Any:
        return self.source.splits

    @property
    def leaves(self) -> tuple[str, ...]:
        return tuple(self.arrays)

    def __len__(self) -> int:
        return len(self.source)

    def labels(self) -> Int[np.ndarray, " N"]:
        return self.source.labels()

    def __getitem__(self, index: int) -> Any:
        return {name: rows[index] for name, rows in self.arrays.items()} | {"name": f"example {index}"}


@dataclass(frozen=True)
class KeptRow:
    """Copies what was computed into a row."""

    of: tuple[tuple[str, tuple[int, ...], str], ...]

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(name for name, _, _ in self.of)

    @property
    def leaves(self) -> Leaves:
        return {name: (shape, np.dtype(kind)) for name, shape, kind in self.of}

    def __call__(self, example: Mapping[str, Any], draws: Draws, row: Row) -> None:
        for name in self.needs:
            row[name][...] = example[name]


@dataclass(frozen=True)
class Kept:
    """The frozen part of a network, and the folder in which what it gives is kept.

    Attributes:
      variables: of the frozen part.
      digest: of these, and of the network.
    """

    config: Config
    task: Task
    variables: PyTree[np.ndarray]
    digest: str
    say: Callable[[str], None]

    def with_kept(self) -> Task:
        """The task, whose batches hold what was computed in place of what the network sees."""
        train, evaluation = self.task.fills

        def parts(source: Source) -> list[tuple[Fill, Source]]:
            return [(self._fill(evaluation), self.rows(source, evaluation))]

        return replace(self.task, fills=(self._fill(train), self._fill(evaluation)), parts=parts)

    def rows(self, source: Source, fill: Fill | None = None) -> Source:
        """The source with what the frozen part gives for each example, from disk or computed now.

        Args:
          fill: how an example is prepared; None = as in training.

        Raises:
          DataError: an example cannot be read.
        """
        fill = fill or self.task.fills[0]
        of = {"weights": self.digest, "data": data.fingerprint(source), "fill": repr(fill)}
        folder = cache_folder() / "features" / hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()
        if not folder.is_dir():
            self.say(f"computing features of {len(source)} examples once, into {folder} ...")
            self._write(source, fill, folder)
        return KeptRows(source, {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))})

    def _fill(self, fill: Fill) -> KeptRow:
        shapes = jax.eval_shape(self._measure, self.variables, _shapes(fill, 1), jax.ShapeDtypeStruct((1,), bool)).rows
        return KeptRow(tuple((name, leaf.shape[1:], str(leaf.dtype)) for name, leaf in sorted(shapes.items())))

    def _measure(self, variables: PyTree[Array], batch: Batch, real: Bool[Array, " N"]) -> Measured:
        frozen = self.task.frozen
        assert frozen is not None
        others = {name: batch[name] for name in self.task.fills[0].leaves if name != self.task.sees}
        return Measured({}, {**others, frozen.leaf: frozen.compute(variables, batch)})

    def _write(self, source: Source, fill: Fill, folder: Path) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            files: dict[str, np.memmap[Any, Any]] = {}
            for name, shape, kind in self._fill(fill).of:
                place = Path(made, "rows", f"{name}.npy")
                place.parent.mkdir(exist_ok=True)
                files[name] = np.lib.format.open_memmap(place, "w+", np.dtype(kind), (len(source), *shape))
            seen = 0

            def keep(rows: Rows) -> None:
                nonlocal seen
                for name, values in rows.items():
                    files[name][seen : seen + len(values)] = values
                seen += len(values)

            size = self.config.eval_batch_size
            make_pass(self._measure, keep=keep, **passing(source, self.config.data, fill, size))(self.variables)
            for file in files.values():
                file.flush()
            if not folder.is_dir():  # another process may have been faster
                os.replace(Path(made, "rows"), folder)


def kept_of(config: Config, task: Task, begun: Beginning | None, say: Callable[[str], None]) -> Kept | None:
    """What can be kept of a run; None where the part is trained, or its weights are not those that the run starts from,
    or where training changes examples at random.
    """
    frozen = task.frozen
    if frozen is None or begun is None or config.optim.frozen_statistics != "fixed":
        return None
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    groups, _ = groups_and_phases(config, task)
    within = f"{frozen.module}/"
    names = [name for name in by_name(shapes) if name.split("/", 1)[1].startswith(within)]
    still = {f"params/{name}" for name in frozen_names(shapes["params"], groups)}
    if any(name not in begun.arrays or (name.startswith("params/") and name not in still) for name in names):
        return None
    arrays = {tuple(name.split("/")): begun.arrays[name] for name in names}
    variables = jax.tree.map(jnp.asarray, unflatten_dict(arrays))
    digest = digest_json({**digest_arrays(variables), "network": frozen.network})
    return Kept(config, task, variables, digest, say)


def _shapes(fill: Fill, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct((rows, *shape), kind) for name, (shape, kind) in fill.leaves.items()}
