"""Checkpoints: saved in the background, kept by age and by accuracy. Damaged ones are passed over in restoring.

`step_folder.py` says what a checkpoint holds, and how damage is found.

Checkpoints are read directly from their folders, without Orbax's manager. The manager cannot even be opened where one
step's metrics are damaged. And an evaluation must be able to read the folder of a run in progress without changing it.
"""

import contextlib
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from jaxtyping import PyTree
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from resnet_jax.errors import CheckpointError, StorageError
from resnet_jax.files import is_remote, open_folder
from resnet_jax.survival.step_folder import (
    Damaged,
    Record,
    check_digests,
    check_listing,
    make_record,
    read_record,
    read_state,
)

# Messages go through logging: so they reach the user of any front end, and do not disturb a progress bar.
log = logging.getLogger("resnet_jax")

STEP_DIGITS = 8


class Restored(NamedTuple):
    """A checkpoint as it was saved. `memory` is what the run must remember besides its state."""

    step: int
    state: PyTree
    memory: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run. It is a context manager that waits for the last save.

    It keeps the newest `keep_last`, and of all checkpoints the `keep_best` with the highest `metrics[best]`. Opening,
    restoring and closing change nothing on disk. `save` and `set_aside` are only for the one run that owns the folder.

    Raises:
      ValueError: `best` is missing. Raised here with `keep_best`, and by `restore_best`.
    """

    def __init__(self, directory: epath.PathLike, *, keep_last: int, keep_best: int, best: str | None = None):
        self._best = best
        if keep_best:
            self._need_best(f"keep_best = {keep_best}")
        directory = directory if is_remote(directory) else Path(directory).absolute()
        self.directory = open_folder(directory)
        self._options = ocp.CheckpointManagerOptions(
            step_format_fixed_length=STEP_DIGITS,
            cleanup_tmp_directories=True,
            # Without best_fn Orbax keeps the metrics only in memory, and a resumed run would forget which was best.
            best_fn=self._rank,
            preservation_policy=AnyPreservationPolicy(
                [LatestN(keep_last), BestN(get_metric_fn=self._rank, n=keep_best)]
            ),
            # Called when all files are written, before the folder gets its name and before an older one is deleted.
            async_options=ocp.AsyncOptions(post_finalization_callback=self._check_written),
        )
        self._manager: ocp.CheckpointManager | None = None
        self._being_saved: tuple[int, Record] | None = None

    def save(self, step: int, state: PyTree, memory: dict[str, Any], metrics: dict[str, float]) -> None:
        """Copies the state to the host and returns. The files are written in the background.

        `memory` must be JSON. `metrics` may lack `best` if nothing was evaluated yet: such a step ranks last.

        Raises:
          CheckpointError: this step is saved already.
          StorageError: the save before this one failed (and this one is not started), or this one cannot be begun.
          TypeError: `memory` is not JSON.
        """
        self.wait()
        if self._manager is None:
            with self._explain_failed_save():
                self._manager = self._open()
        if step in self._manager.all_steps():
            raise CheckpointError(f"step {step} is already saved under {self.directory}; a step can be saved once")
        metrics = {name: float(value) for name, value in metrics.items()}
        record = make_record(state, memory, metrics)
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(record))
        self._being_saved = step, record
        with self._explain_failed_save():
            self._manager.save(step, args=items, metrics=metrics, force=True)

    def restore_newest(self, like: PyTree, *, set_aside: bool = False) -> Restored | None:
        """The newest whole checkpoint, or None if there is no checkpoint at all, whole or damaged.

        Newer checkpoints that are damaged are reported. If no checkpoint can be restored, nothing is renamed: then the
        fault may be in the machine, not in the files.

        Args:
          set_aside: rename damaged checkpoints to `damaged-...`, so that their steps can be saved again. Only for the
            one run that owns the folder.
          like: the state as a tree of arrays or `jax.ShapeDtypeStruct`. Each array is put where the template's
            `.sharding` says, however many devices saved it. Without a sharding it goes to the default device.

        Raises:
          CheckpointError: there are checkpoints, but none is whole; or the model or optimiser is another one.
        """
        self.wait()
        paths = dict(sorted(self._steps().items(), reverse=True))
        if not paths:
            return None
        restored, damaged = self._first_whole(paths, like)
        for step, reason in damaged.items():
            reason = f"{reason}; going on from step {restored.step}"
            if set_aside:
                self._set_aside(step, reason)
            else:
                log.warning("checkpoint of step %d is damaged: %s", step, reason)
        return restored

    def restore_best(self, like: PyTree) -> Restored:
        """The whole checkpoint with the highest `metrics[best]`; of equal ones the newest. For `like` see
        `restore_newest`.

        Better checkpoints that are damaged are reported. Nothing is renamed, since another process may be training
        here.

        Raises:
          CheckpointError: no checkpoint at all, none that is whole, or another model or optimiser.
        """
        self._need_best("restore_best")
        self.wait()
        paths = self._steps()
        ranks = {step: self._rank_of(path) for step, path in paths.items()}
        if not ranks:
            raise CheckpointError(
                f"{self.directory} holds no checkpoint; train first, or name the workdir of a run that has saved one"
            )
        best_first = sorted(ranks, key=lambda step: (ranks[step], step), reverse=True)
        restored, damaged = self._first_whole({step: paths[step] for step in best_first}, like)
        for step, reason in damaged.items():
            log.warning(
                "checkpoint of step %d is damaged: %s; the next best is step %d (%s %.4f)",
                *(step, reason, restored.step, self._best, ranks[restored.step]),
            )
        return restored

    def wait(self) -> None:
        """Returns when everything is on disk.

        Raises:
          StorageError: the last save failed. Its half is no checkpoint.
        """
        if self._manager is not None:
            with self._explain_failed_save():
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then ends the threads. Raises the errors of `wait`."""
        try:
            self.wait()
        finally:
            self._let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _let_go(self) -> None:
        manager, self._manager = self._manager, None
        if manager is not None:
            with contextlib.suppress(Exception):  # `wait` has reported the failure
                manager.close()

    def _open(self) -> ocp.CheckpointManager:
        for step, path in self._steps().items():
            try:
                read_record(path)
            except Damaged as error:
                self._set_aside(step, str(error))
        return ocp.CheckpointManager(self.directory, options=self._options)

    def _steps(self) -> dict[int, epath.Path]:
        if not self.directory.exists():
            return {}
        return {int(path.name): path for path in self.directory.iterdir() if path.name.isdecimal()}

    def _check_written(self) -> None:
        """Raises `Damaged` if the arrays that were just written cannot be found again. A thread of Orbax calls this."""
        assert self._being_saved is not None
        step, record = self._being_saved
        name = f"{step:0{STEP_DIGITS}}"  # until the checkpoint is complete, its folder's name has an ending of Orbax
        (path,) = (path for path in self.directory.iterdir() if path.name.split(".")[0] == name)
        check_listing(path, record)

    def _first_whole(self, paths: dict[int, epath.Path], like: PyTree) -> tuple[Restored, dict[int, str]]:
        damaged: dict[int, str] = {}
        for step, path in paths.items():
            try:
                record = read_record(path)
                state, reason = read_state(path, record, like), ""
            except Damaged as error:
                state, reason = None, str(error)
            # All processes must continue from the same step, even if only one of them could not read its part.
            if _everywhere(not reason):
                try:
                    check_digests(state, record)
                except Damaged as error:
                    reason = str(error)
                if _everywhere(not reason):
                    return Restored(step, state, record["memory"]), damaged
            damaged[step] = reason or "another process could not read it"
        tried = "".join(f"\n  step {step}: {reason}" for step, reason in damaged.items())
        raise CheckpointError(
            f"none of the {len(damaged)} checkpoints under {self.directory} can be restored; tried:{tried}\n"
            "Nothing was changed. Bring a copy of one back, or start anew in another workdir."
        )

    def _need_best(self, what: str) -> None:
        if self._best is None:
            raise ValueError(f"{what} needs the name of the metric that is best; give `best`, such as a task's `best`")

    def _rank(self, metrics: dict[str, float]) -> float:
        value = metrics.get(self._best, -math.inf) if self._best else -math.inf
        return -math.inf if math.isnan(value) else value

    def _rank_of(self, path: epath.Path) -> float:
        try:
            return self._rank(read_record(path)["metrics"])
        except Damaged:
            return math.inf  # it may have been the best: so it is tried first, and reported

    def _set_aside(self, step: int, reason: str) -> None:
        path = self._steps()[step]
        target = path.parent / f"damaged-{path.name}"
        while target.exists():
            target = target.parent / f"{target.name}-again"
        log.warning("checkpoint of step %d is damaged: %s. Its folder is now %s", step, reason, target)
        multihost_utils.sync_global_devices("resnet_jax: a damaged checkpoint is about to be renamed")
        if jax.process_index() == 0:
            path.rename(target)
        multihost_utils.sync_global_devices("resnet_jax: a damaged checkpoint has been renamed")
        if self._manager is not None:
            self._manager.reload()

    @contextlib.contextmanager
    def _explain_failed_save(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._let_go()  # the next save opens the manager anew, which removes the remains of this save
            raise StorageError(
                f"a checkpoint could not be written under {self.directory}: {type(error).__name__}: {error}. "
                "Those saved before are as they were; see that there is room and that it is writable, then resume."
            ) from error


def _everywhere(true: bool) -> bool:
    return bool(np.all(multihost_utils.process_allgather(np.array(true))))
