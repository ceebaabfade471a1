"""Where a run's log goes: JSON lines, TensorBoard's files, the screen.

A line that cannot be written is a `StorageError`. Lines are kept until they can be written, so that a log has no gap.
"""

import json
import math
import socket
import struct
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from etils import epath

from resnet_jax.display import plain_console
from resnet_jax.files import open_growing
from resnet_jax.logs.shown import Names

if TYPE_CHECKING:  # rich and tensorboardX are imported where a log is opened: training itself does not need them
    from rich.console import Console


class Sink(Protocol):
    def write(self, record: dict[str, Any], seconds_left: float | None) -> None:
        """Shows or keeps a record."""

    def sync(self) -> None:
        """Returns when the written records are stored so that they survive a crash of the machine."""

    def close(self) -> None:
        """Closes the file."""


class JsonLines:
    """A file with one JSON object per line."""

    def __init__(self, path: epath.Path, kept: Iterable[Mapping[str, Any]]):
        self._file = open_growing(path, "".join(map(_line, kept)).encode())

    def write(self, record: dict[str, Any], seconds_left: float | None) -> None:
        self._file.write(_line(record).encode())

    def sync(self) -> None:
        self._file.sync()

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    """Charts named `train/loss`, `eval/loss`, ... over steps.

    tensorboardX only makes the events. Its own writer is a thread that hangs the run if it fails.
    """

    def __init__(self, folder: epath.Path, start_step: int):
        self._event, self._scalar, self._checksum = _import_tensorboard_x()
        head = self._framed(file_version="brain.Event:2")
        if start_step:  # makes TensorBoard forget what an earlier session wrote from this step on
            head += self._framed(step=start_step + 1, session_log={"status": 1})
        self._file = open_growing(folder / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}", head)

    def write(self, record: dict[str, Any], seconds_left: float | None) -> None:
        charts = {name: value for name, value in record.items() if name not in ("kind", "step") and value is not None}
        summaries = [self._scalar(f"{record['kind']}/{name}", value) for name, value in charts.items()]
        self._file.write(b"".join(self._framed(step=record["step"], summary=summary) for summary in summaries))

    def sync(self) -> None:
        self._file.sync()

    def close(self) -> None:
        self._file.close()

    def _framed(self, **fields: Any) -> bytes:
        """An event as a TFRecord: its length and its bytes, each followed by a checksum."""
        event = self._event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(event))
        return b"".join(part + struct.pack("<I", self._checksum(part)) for part in (length, event))


def _import_tensorboard_x() -> tuple[Any, Any, Any]:
    # tensorboardX imports torch if it is installed, to accept tensors. That takes seconds, and adds a second OpenMP
    # runtime beside XLA's. Python treats a module that is None as one that is not installed.
    hide_torch = "torch" not in sys.modules
    if hide_torch:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import masked_crc32c
        from tensorboardX.summary import scalar
    finally:
        if hide_torch:
            del sys.modules["torch"]
    return Event, scalar, masked_crc32c


# A line shows the loss, the task's own numbers, and these.
_RATES = {
    "empty": "{:,.0f} empty batches",
    "lr": "lr {:.3g}",
    "images_per_second": "{:,.0f} images/s",
    "mfu": "{:.0%} MFU",
    "data_wait": "{:.0%} waiting for data",
}
_BAR_STYLES = {"loss": "bold", "empty": "yellow", "images_per_second": "cyan", "left": "dim"}


class Screen:
    """A progress bar on a terminal. Elsewhere (a file, a batch system), one plain line per record.

    Args:
      names: the task's numbers that are shown. The bar has room only for the first one of an evaluation.
    """

    def __init__(self, console: "Console | None", total_steps: int, start_step: int, names: Names):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._console = console or plain_console()
        self._total_steps = total_steps
        own = {name: f"{shown.label} {shown.form}" for name, shown in names.items()}
        self._forms = {"loss": "loss {:.4f}", **own, **_RATES}
        self._bar = {"train": _BAR_STYLES, "eval": dict.fromkeys([*names][:1], "green")}
        self._progress: Progress | None = None
        if self._console.is_terminal:
            styles = {name: style for kind in self._bar.values() for name, style in kind.items()}
            columns = [TextColumn(f"{{task.fields[{name}]}}", style=style) for name, style in styles.items()]
            self._progress = Progress(BarColumn(16), MofNCompleteColumn(), *columns, console=self._console)
            empty: dict[str, Any] = dict.fromkeys(styles, "")
            self._task = self._progress.add_task("", total=total_steps, completed=start_step, **empty)
            self._progress.start()

    def write(self, record: dict[str, Any], seconds_left: float | None) -> None:
        kind, step = record["kind"], record["step"]
        texts: dict[str, Any] = {
            name: form.format(record[name]) for name, form in self._forms.items() if record.get(name) is not None
        }
        if kind == "train" and seconds_left is not None:
            texts["left"] = f"{timedelta(seconds=round(seconds_left))} left"
        if self._progress is not None:
            fields = {name: text for name, text in texts.items() if name in self._bar[kind]}
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
