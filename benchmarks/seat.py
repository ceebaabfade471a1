"""A program in a process of its own, that takes its turns when it is told to.

So each program has the memory, the threads and the flags that it would have alone, and one that cannot run, or takes
too long to get ready, is let go without harm to the others.
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from resnet_jax.cost.speed import Program


class CannotRun(Exception):
    """Why a program did not get ready, in a line."""


class Seat:
    """Attributes: images (per launch), compile_seconds and peak_bytes, as of `Program`."""

    def __init__(self, build: Callable[[], Program], patience: float | None = None):
        """Starts the process and waits until the program could be launched.

        Args:
          build: makes the program, in that process: a picklable function.
          patience: seconds to wait; None = any time.

        Raises:
          CannotRun: it raised an error, died, or was not ready in time.
        """
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, build), daemon=True)
        self._process.start()
        theirs.close()
        if not self._pipe.poll(patience):
            self._process.kill()
            raise CannotRun(f"not ready within {patience:.0f} s, what was left of the budget")
        self.images, self.compile_seconds, self.peak_bytes = self._answer()

    def turn(self, launches: int) -> float:
        """As `Program.turn`."""
        self._pipe.send(launches)
        return self._answer()

    def leave(self) -> None:
        """Ends the process, which gives its memory back."""
        self._pipe.send(None)
        self._process.join()

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise CannotRun(f"its process ended with status {self._process.exitcode}") from None
        if isinstance(answer, str):
            raise CannotRun(answer)
        return answer


def _serve(pipe: Connection, build: Callable[[], Program]) -> None:
    try:
        program = build()
        program.turn(1)
        pipe.send((program.images, program.compile_seconds, program.peak_bytes))
        while launches := pipe.recv():
            pipe.send(program.turn(launches))
    except EOFError:  # the other side has ended
        pass
    except Exception as error:
        text = str(error).strip().splitlines() or [""]
        pipe.send(f"{type(error).__name__}: {text[0][:100]}")
