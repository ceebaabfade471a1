"""The log of a run: `metrics.jsonl`, TensorBoard, and a progress bar or plain lines."""

import json
import math
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import jax
import numpy as np
from jaxtyping import Array, Float

from resnet_jax.errors import NonFiniteLossError
from resnet_jax.files import write_atomically

if TYPE_CHECKING:  # rich and tensorboardX are imported where a log is opened: training itself needs neither
    from rich.console import Console

FILE_NAME = "metrics.jsonl"


class RunLog:
    """Writes what a run measures; a context manager.

    `metrics.jsonl` holds one JSON object per line, with `kind` ("train" or "eval"), `step`, `epoch`, `seconds` and:

      train  the means over the steps since the last such line of what the step reports (`loss`, `top1`, ...), `lr` of
             the last of them, and `images_per_second`
      eval   the report of the evaluation (`loss`, `top1`, `top5`, `count`)

    Accuracies are fractions. What is not finite is null. `seconds` counts the sessions of a resumed run together.

    `images_per_second` is that of training alone: its clock starts anew at the first step (after its compilation) and
    after every line written, so it sees neither compilation nor evaluation. Where no step was timed (the first line,
    if it follows the first step) it is left out.

    With several processes, all keep the time and check the loss, and the first one writes.

    Attributes:
      seconds_before: what earlier sessions of the run took, up to `start_step`.

    Args:
      workdir: a local folder; made where missing.
      start_step: the step the run goes on from. What an earlier session logged after it is cut away, so that the log
        has neither gap nor duplicate; 0 starts a new log.
      steps_per_epoch: need not be a whole number.
      console: where to show progress; standard output by default.
    """

    def __init__(
        self,
        workdir: str | Path,
        *,
        total_steps: int,
        start_step: int,
        images_per_step: int,
        steps_per_epoch: float,
        console: "Console | None" = None,
    ):
        self._total_steps, self._start_step = total_steps, start_step
        self._images_per_step, self._steps_per_epoch = images_per_step, steps_per_epoch
        self._collected: list[tuple[int, Mapping[str, Array]]] = []
        self._opened = time.perf_counter()
        self._first_step_at: float | None = None
        self._clock, self._timed_steps = self._opened, 0
        workdir = Path(workdir)
        kept = [record for record in read_metrics(workdir) if record["step"] <= start_step] if start_step else []
        self.seconds_before: float = kept[-1]["seconds"] if kept else 0.0
        self._sinks: list[_JsonLines | _TensorBoard | _Screen] = []
        if jax.process_index() == 0:
            workdir.mkdir(parents=True, exist_ok=True)
            self._sinks = [
                _JsonLines(workdir / FILE_NAME, kept),
                _TensorBoard(workdir / "tensorboard", start_step),
                _Screen(console, total_steps, start_step),
            ]

    def collect(self, step: int, metrics: Mapping[str, Float[Array, ""]]) -> None:
        """Keeps what step `step` reported, without waiting for the device."""
        self._collected.append((step, metrics))
        if self._first_step_at is None:  # it was just handed to the device: compiled, but perhaps not yet computed
            self._first_step_at = time.perf_counter()
            self._restart_clock()
        else:
            self._timed_steps += 1

    def write_train(self, step: int, *, lr: float) -> None:
        """Waits for what was collected and writes its means.

        Raises:
          NonFiniteLossError: a loss among them is infinite or not a number; nothing is written.
        """
        if not self._collected:
            return
        steps = [step for step, _ in self._collected]
        values = jax.device_get([metrics for _, metrics in self._collected])
        losses = [float(metrics["loss"]) for metrics in values]
        self._check_finite(steps, losses)
        self._collected.clear()
        means = {name: float(np.mean([metrics[name] for metrics in values], dtype=np.float64)) for name in values[0]}
        record = self._record("train", step) | means | {"lr": float(lr)}
        if self._timed_steps:
            duration = time.perf_counter() - self._clock
            record["images_per_second"] = self._timed_steps * self._images_per_step / duration
        self._write(record)

    def write_eval(self, step: int, report: Mapping[str, float]) -> None:
        """Writes the report of an evaluation after step `step`."""
        self._write(self._record("eval", step) | {name: _plain(value) for name, value in report.items()})

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()
        self._sinks = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _record(self, kind: str, step: int) -> dict[str, Any]:
        seconds = self.seconds_before + time.perf_counter() - self._opened
        return {"kind": kind, "step": step, "epoch": step / self._steps_per_epoch, "seconds": round(seconds, 3)}

    def _write(self, record: dict[str, Any]) -> None:
        for sink in self._sinks:
            sink.write(record, self._seconds_left(record["step"]))
        self._restart_clock()

    def _restart_clock(self) -> None:
        self._clock, self._timed_steps = time.perf_counter(), 0

    def _seconds_left(self, step: int) -> float | None:
        """At the pace since the first step, evaluations and checkpoints included."""
        steps = step - self._start_step - 1
        if self._first_step_at is None or steps < 1:
            return None
        return (time.perf_counter() - self._first_step_at) / steps * (self._total_steps - step)

    @staticmethod
    def _check_finite(steps: list[int], losses: list[float]) -> None:
        bad = [(step, loss) for step, loss in zip(steps, losses, strict=True) if not math.isfinite(loss)]
        if bad:
            step, loss = bad[0]
            raise NonFiniteLossError(
                f"the loss is {loss} at step {step}, the first of {len(bad)} that are not finite in steps {steps[0]} "
                f"to {steps[-1]}. Lower optim.base_lr, lengthen optim.warmup_epochs or use model.dtype float32, then "
                "run again: training goes on from the last checkpoint, which is from before these steps"
            )


def read_metrics(workdir: str | Path) -> list[dict[str, Any]]:
    """The records of a run's log, oldest first; empty where there is none. A line torn by a crash is left out."""
    records = []
    path = Path(workdir) / FILE_NAME
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


class _JsonLines:
    def __init__(self, path: Path, kept: list[dict[str, Any]]):
        write_atomically(path, "".join(map(_line, kept)))
        self._file = path.open("a", buffering=1)  # flushed at every line

    def write(self, record: dict[str, Any], seconds_left: float | None) -> None:
        self._file.write(_line(record))

    def close(self) -> None:
        self._file.close()


class _TensorBoard:
    """Charts named `train/loss`, `eval/top1`, ... over steps."""

    def __init__(self, folder: Path, start_step: int):
        # purge_step is the first step that TensorBoard is to forget.
        self._writer = _summary_writer(str(folder), purge_step=start_step and start_step + 1, flush_secs=10)

    def write(self, record: dict[str, Any], seconds_left: float | None) -> None:
        for name, value in record.items():
            if name not in ("kind", "step"):
                self._writer.add_scalar(f"{record['kind']}/{name}", value, record["step"])

    def close(self) -> None:
        self._writer.close()


def _summary_writer(*args: Any, **options: Any) -> Any:
    # tensorboardX imports torch where it finds it, to accept tensors: seconds, and a second OpenMP runtime beside
    # XLA's. Python takes a module that is None for one that is not installed.
    hide_torch = "torch" not in sys.modules
    if hide_torch:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hide_torch:
            del sys.modules["torch"]
    return SummaryWriter(*args, **options)


_SHOWN = {
    "loss": "loss {:.4f}",
    "top1": "top-1 {:.2%}",
    "top5": "top-5 {:.2%}",
    "lr": "lr {:.3g}",
    "images_per_second": "{:,.0f} images/s",
}
_BAR_STYLES = {
    "train": {"loss": "bold", "images_per_second": "cyan", "left": "dim"},
    "eval": {"top1": "green"},
}


class _Screen:
    """A progress bar on a terminal; elsewhere (a file, a batch system) one plain line per record."""

    def __init__(self, console: "Console | None", total_steps: int, start_step: int):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._console = console or Console()
        self._total_steps = total_steps
        self._progress: Progress | None = None
        if self._console.is_terminal:
            styles = {name: style for kind in _BAR_STYLES.values() for name, style in kind.items()}
            columns = [TextColumn(f"{{task.fields[{name}]}}", style=style) for name, style in styles.items()]
            self._progress = Progress(BarColumn(16), MofNCompleteColumn(), *columns, console=self._console)
            empty: dict[str, Any] = dict.fromkeys(styles, "")
            self._task = self._progress.add_task("", total=total_steps, completed=start_step, **empty)
            self._progress.start()

    def write(self, record: dict[str, Any], seconds_left: float | None) -> None:
        kind, step = record["kind"], record["step"]
        texts: dict[str, Any] = {
            name: form.format(record[name]) for name, form in _SHOWN.items() if record.get(name) is not None
        }
        if kind == "train" and seconds_left is not None:
            texts["left"] = f"{timedelta(seconds=round(seconds_left))} left"
        if self._progress is not None:
            fields = {name: text for name, text in texts.items() if name in _BAR_STYLES[kind]}
            self._progress.update(self._task, completed=step, **fields)
        if self._progress is None or kind == "eval":
            where = f"step {step:{len(str(self._total_steps))}}/{self._total_steps}  epoch {record['epoch']:.2f}"
            words = [where, *(["evaluation:"] if kind == "eval" else []), *texts.values()]
            self._console.print("  ".join(words), markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()


def _plain(value: Any) -> int | float:
    return value if isinstance(value, int) else float(value)


def _line(record: Mapping[str, Any]) -> str:
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(finite, allow_nan=False) + "\n"
