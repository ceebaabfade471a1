"""Engines that take turns, each in a process of its own, since the threads of one slow down another.

They take turns round by round, so that all see the same load. Each is called once more before it is timed, to wake its
threads.
"""

import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

Run = Callable[[], np.ndarray]


class Times(NamedTuple):
    """Attributes:
    first: seconds from a network to its first result: tracing, folding, compiling.
    result: the first result.
    seconds: of each round.
    """

    first: float
    result: np.ndarray
    seconds: list[float]


def take_turns(
    names: Sequence[str], prepare: Callable[..., Run], arguments: Sequence[Any], rounds: int
) -> dict[str, Times]:
    """Times engines. One that is not installed, or does not work here, is left out with the reason.

    Args:
      prepare: `(name, *arguments) -> what computes the result`, a function of a module.
    """
    context = get_context("spawn")
    pipes: dict[str, Connection] = {}
    times: dict[str, Times] = {}
    for name in names:
        here, there = context.Pipe()
        worker = context.Process(target=_serve, args=(there, prepare, name, *arguments), daemon=True)
        worker.start()
        there.close()
        answer = here.recv()
        if isinstance(answer, str):
            print(f"  {name} is left out: {answer}", flush=True)
            continue
        pipes[name], times[name] = here, Times(*answer, [])
    for _ in range(rounds):
        for name, pipe in pipes.items():
            pipe.send(True)
            times[name].seconds.append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(False)
    return times


def _serve(pipe: Connection, prepare: Callable[..., Run], name: str, *arguments: Any) -> None:
    """Prepares an engine, sends the seconds and the result of its first call, and then the seconds of a call each time
    it is asked."""
    try:
        start = time.perf_counter()
        run = prepare(name, *arguments)
        result = run()
        pipe.send((time.perf_counter() - start, result))
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {str(error).splitlines()[0][:150]}")
        return
    while pipe.recv():
        run()  # wakes the threads
        start = time.perf_counter()
        run()
        pipe.send(time.perf_counter() - start)
