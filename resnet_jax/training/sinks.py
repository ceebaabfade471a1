"""Where a run's log goes: JSON lines, TensorBoard's files, the screen.

What cannot be written is a `StorageError`. Lines are kept until they can be, so that a log never has a gap.
"""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from resnet_jax.files import explain_failed_write, write_atomically

if TYPE_CHECKING:  # rich and tensorboardX are imported where a log is opened: training itself needs neither
    from rich.console import Console


class Sink(Protocol):
    def write(self, record: dict[str, Any], seconds_left: float | None) -> None:
        """Shows or keeps a record."""

    def sync(self) -> None:
        """Returns when what was written outlives the machine."""

    def close(self) -> None:
        """Lets go of the file."""


class JsonLines:
    """A file with one JSON object per line, of which none is ever torn by a full disk or a killed process."""

    def __init__(self, path: Path, kept: Iterable[Mapping[str, Any]]):
        self._path = path
        with explain_failed_write(path):
            write_atomically(path, "".join(map(_line, kept)))
            self._file = path.open("ab", buffering=0)
        self._whole = path.stat().st_size
        self._unwritten = b""

    def write(self, record: dict[str, Any], seconds_left: float | None) -> None:
        self._unwritten += _line(record).encode()
        self._flush()

    def sync(self) -> None:
        self._flush()
        with explain_failed_write(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()

    def _flush(self) -> None:
        written = 0
        with explain_failed_write(self._path):
            try:
                while written < len(self._unwritten):  # a full disk may take a part
                    written += self._file.write(self._unwritten[written:])
            except OSError:
                self._file.truncate(self._whole)
                raise
        self._whole += written
        self._unwritten = b""


class TensorBoard:
    """Charts named `train/loss`, `eval/top1`, ... over steps.

    The events are written here and now, not by a thread of tensorboardX's: where that one fails, it hangs the run.
    """

    def __init__(self, folder: Path, start_step: int):
        writer, self._event, self._scalar = _import_tensorboard_x()
        with explain_failed_write(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = writer(str(folder / "events"), filename_suffix=f".{time.time_ns()}")
            if start_step:  # TensorBoard is to forget what an earlier session wrote from this step on
                self._put(step=start_step + 1, session_log={"status": 1})

    def write(self, record: dict[str, Any], seconds_left: float | None) -> None:
        for name, value in record.items():
            if name not in ("kind", "step") and value is not None:
                self._put(step=record["step"], summary=self._scalar(f"{record['kind']}/{name}", value))
        self.sync()

    def sync(self) -> None:
        with explain_failed_write(self._writer._file_name):
            self._writer.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._writer.close()

    def _put(self, **fields: Any) -> None:
        with explain_failed_write(self._writer._file_name):
            self._writer.write_event(self._event(wall_time=time.time(), **fields))


def _import_tensorboard_x() -> tuple[Any, Any, Any]:
    # tensorboardX imports torch where it finds it, to accept tensors: seconds, and a second OpenMP runtime beside
    # XLA's. Python takes a module that is None for one that is not installed.
    hide_torch = "torch" not in sys.modules
    if hide_torch:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar
    finally:
        if hide_torch:
            del sys.modules["torch"]
    return EventsWriter, Event, scalar


_SHOWN = {
    "loss": "loss {:.4f}",
    "top1": "top-1 {:.2%}",
    "top5": "top-5 {:.2%}",
    "lr": "lr {:.3g}",
    "images_per_second": "{:,.0f} images/s",
    "mfu": "{:.0%} MFU",
    "data_wait": "{:.0%} waiting for data",
}
_BAR_STYLES = {
    "train": {"loss": "bold", "images_per_second": "cyan", "left": "dim"},
    "eval": {"top1": "green"},
}


class Screen:
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

    def sync(self) -> None:
        pass

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()


def _line(record: Mapping[str, Any]) -> str:
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(finite, allow_nan=False) + "\n"
