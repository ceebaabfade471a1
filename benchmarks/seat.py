"""A program in a process of its own, that takes its turns when it is told to; and work that is done once, likewise.

So each program has the memory, the threads and the flags that it would have alone, and one that cannot run, or takes
too long to get ready, is let go without harm to the others.
"""

import contextlib
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from resnet_jax.cost.speed import Program


class CannotRun(Exception):
    """Why a program did not get ready, in a line."""


class Process:
    """A process that answers."""

    def __init__(self, target: Callable[..., None], *arguments: Any):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()

    def answer(self, patience: float | None = None) -> Any:
        """Waits for as many seconds (None = any time).

        Raises:
          CannotRun: the process raised an error, died, or did not answer in time.
        """
        if not self._pipe.poll(patience):
            self.kill()
            raise CannotRun(f"not ready within {patience:.0f} s, what was left of the budget")
        try:
            answer, error = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise CannotRun(f"its process ended with status {self._process.exitcode}") from None
        if error:
            raise CannotRun(error)
        return answer

    def tell(self, what: Any) -> None:
        self._pipe.send(what)

    def join(self) -> None:
        self._process.join()

    def kill(self) -> None:
        self._process.kill()
        self.join()


class Seat:
    """Attributes, from `ready` on: images (per launch), compile_seconds and peak_bytes, as of `Program`."""

    images: int
    compile_seconds: float
    peak_bytes: int | None

    def __init__(self, build: Callable[[], Program]):
        """Starts the process.

        Args:
          build: makes the program, in that process: a picklable function.
        """
        self._process = Process(_serve, build)

    def ready(self, patience: float | None = None) -> None:
        """Waits until the program could be launched, as many seconds at most (None = any time).

        Raises:
          CannotRun: it raised an error, died, or was not ready in time.
        """
        self.images, self.compile_seconds, self.peak_bytes = self._process.answer(patience)

    def turn(self, launches: int) -> float:
        """As `Program.turn`."""
        self._process.tell(launches)
        return self._process.answer()

    def leave(self) -> None:
        """Ends the process, which gives its memory back."""
        with contextlib.suppress(BrokenPipeError):  # it has died
            self._process.tell(None)
        self._process.join()


def start_apart(work: Callable[[], Any]) -> Process:
    """Starts picklable work in a process of its own; `answer` has what it returns."""
    return Process(_do, work)


def _do(pipe: Connection, work: Callable[[], Any]) -> None:
    try:
        pipe.send((work(), None))
    except Exception as error:
        pipe.send((None, _in_a_line(error)))


def _serve(pipe: Connection, build: Callable[[], Program]) -> None:
    try:
        program = build()
        program.turn(1)
        pipe.send(((program.images, program.compile_seconds, program.peak_bytes), None))
        while launches := pipe.recv():
            pipe.send((program.turn(launches), None))
    except EOFError:  # the other side has ended
        pass
    except Exception as error:
        pipe.send((None, _in_a_line(error)))


def _in_a_line(error: Exception) -> str:
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[0][:100]}"
