"""Ends a run that hangs with an error that says where it hung."""

import faulthandler
import logging
import os
import sys
import threading
import time
from typing import Self

import jax

from resnet_jax.errors import EXIT_HUNG

log = logging.getLogger("resnet_jax")

PATIENCE = 10.0  # a first step (it compiles), an evaluation or a checkpoint may take this many times longer


class Watchdog:
    """Ends the process with status 76 if nothing is heard within `seconds`; 0 switches it off. A context manager.

    A collective that another host never joins, or a dead driver, blocks for ever, and cannot be interrupted from
    within. So the process is ended as it is. The last checkpoint is whole, and `train.py --restart-on-failure`
    continues from it.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._done = threading.Event()
        self._what, self._since, self._deadline = "the start", time.monotonic(), float("inf")
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def expect(self, what: str, patience: float = 1.0) -> None:
        """Says that `what` begins now. The next call is due within `patience` times the bound."""
        self._what, self._since = what, time.monotonic()
        self._deadline = self._since + patience * self._seconds

    def __enter__(self) -> Self:
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._seconds:
            self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(timeout=self._seconds / 10):
            if time.monotonic() > self._deadline:
                self._end()

    def _end(self) -> None:
        # The device may not even answer the questions below: then this timer ends the process.
        threading.Timer(10, os._exit, [EXIT_HUNG]).start()
        waited = time.monotonic() - self._since
        print(f"\nerror: {self._what} is not over after {waited:.0f} s; every thread:", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        for device in jax.local_devices():
            print(f"{device}: {device.memory_stats() or 'no memory statistics'}", file=sys.stderr, flush=True)
        print(
            f"Stopped with status {EXIT_HUNG}. The last checkpoint is whole: the same command goes on from it. Where "
            "the machine is merely slow, raise watchdog_seconds.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(EXIT_HUNG)
