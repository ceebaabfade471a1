"""The log of a run: `metrics.jsonl`, TensorBoard, and a progress bar or plain lines."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import jax
import numpy as np
from etils import epath
from jaxtyping import Array, Float

from resnet_jax.errors import NonFiniteLossError
from resnet_jax.files import forgive_failed_write, open_folder
from resnet_jax.logs.shown import Names
from resnet_jax.logs.sinks import JsonLines, Screen, Sink, TensorBoard
from resnet_jax.survival.non_finite import DIAGNOSIS, SKIPPED_AT_MOST, was_finite

if TYPE_CHECKING:  # rich and tensorboardX are imported where a log is opened: training itself does not need them
    from rich.console import Console

log = logging.getLogger("resnet_jax")

FILE_NAME = "metrics.jsonl"


class RunLog:
    """Writes the measurements of a run. It is a context manager.

    `metrics.jsonl` holds one JSON object per line, with `kind` ("train" or "eval"), `step`, `epoch`, `seconds` and:

      train  the means over the steps since the last such line of the metrics of a step (`loss`, ...); `lr` of the last
             of these steps; `images_per_second`; `data_wait`, the share of the time that was spent waiting for data;
             `mfu` if the devices' peak is known; and `empty` if any of the run's batches so far had nothing that
             counts, as one without a valid pixel: their number. The means leave such batches out where there are others
      eval   the report of the evaluation (`loss`, the task's own numbers, `count`)

    Numbers that are not finite are written as null. `seconds` is the total over all sessions of a resumed run.

    `images_per_second` is that of training alone. Its clock starts again at the first step (after its compilation) and
    after every line that is written, so it counts neither compilation nor evaluation. If no step was timed (the first
    line, if it follows the first step), it is left out. `mfu` is the share of the devices' peak that the arithmetic of
    the network alone reaches. `data_wait` is measured by the same clock: at 0 the host keeps the devices busy.

    With several processes, all of them keep the time and check the loss, and the first one writes.

    Attributes:
      seconds_before: how long earlier sessions of the run took, up to `start_step`.

    Args:
      workdir: a folder, also on `gs://`. It is made if it is missing.
      start_step: the step from which the run continues. Lines that an earlier session logged after it are cut away, so
        that the log has neither gap nor duplicate. 0 starts a new log.
      steps_per_epoch: need not be a whole number.
      learning_rate: the learning rate of a step.
      names: how the task's own numbers are shown on the screen.
      layers: the names to which the steps' `worst_layer` refers.
      images_per_second_at_peak: the speed if all arithmetic of the devices went into the network; None = not known.
      log_state: the result of `get_state` at `start_step`.
      forgive_failed_writes: warn about a file that could not be written, and go on. The lines are kept until they can
        be written.
      console: where to show progress; standard output by default.

    Raises:
      StorageError: the files cannot be written at all. Every method that writes raises it too.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        *,
        total_steps: int,
        start_step: int,
        images_per_step: int,
        steps_per_epoch: float,
        learning_rate: Callable[[int], float],
        names: Names | None = None,
        layers: Sequence[str] = (),
        images_per_second_at_peak: float | None = None,
        log_state: list[Any] | None = None,
        forgive_failed_writes: bool = False,
        console: "Console | None" = None,
    ):
        self._total_steps, self._start_step = total_steps, start_step
        self._images_per_step, self._steps_per_epoch = images_per_step, steps_per_epoch
        self._collected: list[tuple[int, Mapping[str, Array | float]]] = [(step, m) for step, m in log_state or []]
        self._learning_rate, self._layers, self._forgive = learning_rate, layers, forgive_failed_writes
        self._opened = time.perf_counter()
        self._first_step_at: float | None = None
        self._clock, self._timed_steps, self._waited = self._opened, 0, 0.0
        self._at_peak = images_per_second_at_peak
        workdir = open_folder(workdir)
        kept = [record for record in read_metrics(workdir) if record["step"] <= start_step] if start_step else []
        self.seconds_before: float = kept[-1]["seconds"] if kept else 0.0
        self._empty: int = max((line.get("empty", 0) for line in kept if line["kind"] == "train"), default=0)
        self._sinks: list[Sink] = []
        if jax.process_index() == 0:
            self._sinks = [
                JsonLines(workdir / FILE_NAME, kept),
                TensorBoard(workdir / "tensorboard", start_step),
                Screen(console, total_steps, start_step, names or {}),
            ]

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Put this around the code that gets the next batch."""
        started = time.perf_counter()
        yield
        self._waited += time.perf_counter() - started

    def collect(self, step: int, metrics: Mapping[str, Float[Array, ""]]) -> None:
        """Keeps the metrics of step `step`, without waiting for the device."""
        self._collected.append((step, metrics))
        if self._first_step_at is None:  # the device has just got the step: compiled, but perhaps not computed
            self._first_step_at = time.perf_counter()
            self._restart_clock()
        else:
            self._timed_steps += 1

    def write_train(self, step: int) -> None:
        """Waits for the metrics that were collected, and writes their means.

        Raises:
          NonFiniteLossError: one of the steps was not finite and not skipped, or too many were. Nothing is written.
        """
        if not self._collected:
            return
        collected = self._fetch()
        self._check_finite(collected)
        self._collected.clear()
        record = self._record("train", step) | _means(collected) | {"lr": float(self._learning_rate(step))}
        self._empty += sum(metrics.get("empty", 0) > 0 for _, metrics in collected)
        if self._empty:
            record["empty"] = self._empty
        if self._timed_steps:
            duration = time.perf_counter() - self._clock
            rate = record["images_per_second"] = self._timed_steps * self._images_per_step / duration
            record["data_wait"] = self._waited / duration
            if self._at_peak:
                record["mfu"] = rate / self._at_peak
        self._write(record)

    def write_eval(self, step: int, report: Mapping[str, float]) -> None:
        """Writes the report of an evaluation after step `step`."""
        self._write(self._record("eval", step) | {name: _plain(value) for name, value in report.items()})

    def get_state(self) -> list[Any]:
        """The metrics that were collected and not yet written, as JSON. The written ones are on the disk on return.

        Raises:
          NonFiniteLossError: as `write_train`.
        """
        collected = self._fetch()
        self._check_finite(collected)
        for sink in self._sinks:
            sink.sync()
        return [[step, metrics] for step, metrics in collected]

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()
        self._sinks = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _record(self, kind: str, step: int) -> dict[str, Any]:
        seconds = self.seconds_before + time.perf_counter() - self._opened
        return {"kind": kind, "step": step, "epoch": step / self._steps_per_epoch, "seconds": round(seconds, 3)}

    def _write(self, record: dict[str, Any]) -> None:
        for sink in self._sinks:
            with forgive_failed_write(self._forgive):
                sink.write(record, self._seconds_left(record["step"]))
        self._restart_clock()

    def _restart_clock(self) -> None:
        self._clock, self._timed_steps, self._waited = time.perf_counter(), 0, 0.0

    def _seconds_left(self, step: int) -> float | None:
        """The time that is left at the pace since the first step, with evaluations and checkpoints."""
        steps = step - self._start_step - 1
        if self._first_step_at is None or steps < 1:
            return None
        return (time.perf_counter() - self._first_step_at) / steps * (self._total_steps - step)

    def _fetch(self) -> list[tuple[int, dict[str, float]]]:
        values = jax.device_get([metrics for _, metrics in self._collected])
        steps = [step for step, _ in self._collected]
        return [(step, {k: float(v) for k, v in m.items()}) for step, m in zip(steps, values, strict=True)]

    def _check_finite(self, collected: list[tuple[int, dict[str, float]]]) -> None:
        bad = [(step, metrics) for step, metrics in collected if not was_finite(metrics)]
        if not bad:
            return
        step, metrics = next((found for found in bad if not found[1].get("skipped")), bad[0])
        what = f"the loss is {metrics['loss']}"
        if "grad_norm" in metrics:
            what += f" and the norm of the gradient {metrics['grad_norm']}"
        what += f" at step {step} (learning rate {self._learning_rate(step):.3g}"
        if "worst_layer" in metrics:
            name = self._layers[int(metrics["worst_layer"])] if self._layers else f"array {metrics['worst_layer']:.0f}"
            what += f", largest gradient norm {metrics['worst_norm']:.3g} in {name}"
        what += f"), the first of {len(bad)} that are not finite in steps {collected[0][0]} to {collected[-1][0]}"
        if not metrics.get("skipped"):
            raise NonFiniteLossError(
                f"{what}. The last checkpoint is from before these steps. Go on from it with --on-non-finite skip or "
                "rollback, or begin anew in another workdir with a lower optim.base_lr, a longer optim.warmup_epochs "
                "or model.dtype float32",
                step,
            )
        if len(bad) == len(collected) >= SKIPPED_AT_MOST:
            raise NonFiniteLossError(f"{what}, and all of those were skipped: there is nothing left to train", step)
        if "loss_scale" not in metrics:  # with float16 steps are skipped now and then, and logged as `skipped`
            log.warning("%s. Their updates were skipped (on_non_finite = skip)", what)


def _means(collected: list[tuple[int, dict[str, float]]]) -> dict[str, float]:
    """Means over the steps that were not skipped, and the number of skipped steps, where steps can be skipped.

    A batch in which nothing counts has no loss of its own: its 0 would make the mean too good.
    """
    values = [metrics for _, metrics in collected]
    taken = [metrics for metrics in values if not metrics.get("skipped")]
    counted = [metrics for metrics in taken if not metrics.get("empty")] or taken
    names = [name for name in values[0] if name not in (*DIAGNOSIS, "skipped", "empty")]
    means = {name: float(np.mean([metrics[name] for metrics in counted])) if taken else math.nan for name in names}
    if "skipped" in values[0]:
        means["skipped"] = len(values) - len(taken)
    return means


def read_metrics(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """The records of a run's log, oldest first. Empty if there is no log. A line torn by a crash is left out."""
    records = []
    path = open_folder(workdir) / FILE_NAME
    for line in path.read_bytes().decode(errors="replace").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return records


def _plain(value: Any) -> int | float:
    return value if isinstance(value, int) else float(value)
