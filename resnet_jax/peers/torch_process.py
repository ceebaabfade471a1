"""A process in which torch runs one network, for as long as the comparison lasts.

Each network has a process of its own, because the threads of one slow down another, and because `torch.compile` gives
up on code that it has compiled too often.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from resnet_jax.cost.speed import Program
from resnet_jax.peers.names import Compared

COMPILED = "torch compiled"
EAGER = "torch"


class Ready(NamedTuple):
    """A network that an engine can run.

    Attributes:
      device: the engine's name for it.
      first_seconds: until the first result was there, with compilation.
      peak_bytes: of parameters, buffers, images and what the engine's allocator held meanwhile; None = not known.
    """

    device: str
    first_seconds: float
    peak_bytes: int | None


class TorchProcess:
    """The network in its process. Use it in a `with` block."""

    def __init__(self, network: Compared) -> None:
        context = get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, network), daemon=True)
        self._process.start()
        there.close()

    def __enter__(self) -> "TorchProcess":
        return self

    def __exit__(self, *_: Any) -> None:
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        self._process.join(timeout=30)
        if self._process.is_alive():
            self._process.kill()

    def prepare(self, batch_size: int, *, compiled: bool) -> Ready | str:
        """Runs the network once on that many images. A text says why that does not work here."""
        answer = self._ask("prepare", batch_size, compiled)
        return answer if isinstance(answer, str) else Ready(*answer)

    def turn(self, batch_size: int, launches: int, *, compiled: bool) -> float:
        """Seconds per launch, as `Program.turn`; infinite if the process has died."""
        answer = self._ask("turn", batch_size, compiled, launches)
        return math.inf if isinstance(answer, str) else float(answer)

    def _ask(self, *question: Any) -> Any:
        try:
            self._pipe.send(question)
            return self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(timeout=30)
            return f"its process has died (exit code {self._process.exitcode})"


def _serve(pipe: Connection, network: Compared) -> None:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would write a line for each measurement
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # the seconds of compilation are those of the first time
    programs: dict[tuple[int, bool], Program] = {}
    module = None
    while (question := pipe.recv()) is not None:
        kind, batch_size, compiled, *rest = question
        try:
            if kind == "prepare":
                module = network.build_torch() if module is None else module
                programs[batch_size, compiled], ready = _prepare(module, network.image_size, batch_size, compiled)
                pipe.send(tuple(ready))
            else:
                pipe.send(programs[batch_size, compiled].turn(*rest))
        except Exception as error:  # what torch and its compilers raise has no common class
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            pipe.send(f"{type(error).__name__}: {lines[0] if lines else ''}"[:200])


def _prepare(module: Any, image_size: int, batch_size: int, compiled: bool) -> tuple[Program, Ready]:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    module = module.to(device, memory_format=torch.channels_last)
    images = torch.randn(batch_size, 3, image_size, image_size, device=device)
    images = images.to(memory_format=torch.channels_last)
    function: Callable[..., Any] = torch.compile(module, dynamic=False) if compiled else module

    def launch() -> Any:
        with torch.inference_mode():
            return function(images)

    wait = (lambda _: torch.cuda.synchronize()) if device == "cuda" else (lambda _: None)
    started = time.perf_counter()
    wait(launch())
    seconds = time.perf_counter() - started
    held = sum(x.numel() * x.element_size() for x in (*module.parameters(), *module.buffers(), images))
    peak = held + _peak_of(launch, device)
    return Program("", launch, batch_size, seconds, peak, wait), Ready(device, seconds, peak)


def _peak_of(launch: Callable[[], Any], device: str) -> int:
    """The most bytes that torch's allocator held at a time, beyond those that it held before."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        launch()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated() - before)
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        launch()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
