"""SIGTERM and SIGINT: the first signal asks the run to stop at the next step, a second one ends the process at once.

A thread reads the signals from a pipe. So the second signal is answered even while the main thread is inside XLA,
compiling or waiting for a device, where Python's own handlers do not run.
"""

import logging
import os
import signal
import threading
from collections import deque
from typing import Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from resnet_jax.runtime.mesh import replicated, split_batch

log = logging.getLogger("resnet_jax")

SIGNALS = (signal.SIGTERM, signal.SIGINT)  # Cloud TPU announces maintenance and preemption by SIGTERM
# Steps between asking the other processes and reading their answers, so that no step waits for an answer.
STEPS_OF_DELAY = 2


class Asked(Protocol):
    """What a loop asks after every step."""

    def asked(self) -> bool:
        """Whether the run is to stop. All processes get the same answer after the same step."""


class StopRequest:
    """Whether somebody asked the run to stop. It is a context manager; inside it the signals do not end the process.

    Outside the main thread of Python no signals are taken.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._asked = False
        self._answers: deque[jax.Array] = deque()
        self._sharding = split_batch(mesh)
        self._any = jax.jit(jnp.any, out_shardings=replicated(mesh))

    def asked(self) -> bool:
        """All processes must call it after every step. All get the same answer after the same step."""
        if jax.process_count() == 1:
            return self._asked
        own = np.full(jax.local_device_count(), self._asked)
        self._answers.append(self._any(jax.make_array_from_process_local_data(self._sharding, own)))
        return len(self._answers) > STEPS_OF_DELAY and bool(self._answers.popleft())

    def __enter__(self) -> Self:
        self._taken = threading.current_thread() is threading.main_thread()
        if self._taken:
            self._read_end, self._write_end = os.pipe()
            os.set_blocking(self._write_end, False)  # as `set_wakeup_fd` demands
            self._handlers = {number: signal.signal(number, self._ask) for number in SIGNALS}
            self._wakeup_fd = signal.set_wakeup_fd(self._write_end)
            self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._taken:
            signal.set_wakeup_fd(self._wakeup_fd)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            os.close(self._write_end)  # ends the thread
            self._thread.join()
            os.close(self._read_end)

    def _ask(self, *_: object) -> None:
        """Python's own handler: if the main thread runs Python, the answer is there before the next step."""
        self._asked = True

    def _listen(self) -> None:
        signals = 0
        while number := os.read(self._read_end, 1):
            if number[0] not in SIGNALS:
                continue
            signals += 1
            if signals > 1:
                os._exit(128 + number[0])
            self._asked = True
            name = signal.Signals(number[0]).name
            log.warning("%s: saving a checkpoint after this step, then stopping. A second one ends at once", name)
