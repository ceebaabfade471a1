"""`train.py --restart-on-failure N`: a parent that starts the same command again. Standard library only."""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from resnet_jax.errors import EXIT_CRASHED, EXIT_HUNG

FLAG = "--restart-on-failure"


def run_with_restarts(command: Sequence[str], restarts: int, *, pause_seconds: float = 5.0) -> int:
    """Runs `command` until it ends without a crash, or has crashed `restarts` + 1 times.

    A crash is an end by a signal (killed for memory, a segmentation fault), an unforeseen error or a hang. A mistake of
    the user or a preemption is no crash. SIGTERM and SIGINT are handed on to the child, which is then not started
    again.

    Returns:
      the exit status of the last attempt; for signal n 128 + n, as in shells.
    """
    stopped = False
    child: subprocess.Popen | None = None

    def hand_on(number: int, _: object) -> None:
        nonlocal stopped
        stopped = True
        if child is not None:
            child.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for attempt in range(restarts + 1):
            # A process group of its own: Ctrl-C on a terminal reaches a whole group, and the child must get it once.
            child = subprocess.Popen(command, process_group=0)
            status = child.wait()
            crashed = status < 0 or status in (EXIT_CRASHED, EXIT_HUNG)
            status = 128 - status if status < 0 else status
            if not crashed or stopped or attempt == restarts:
                break
            print(f"train.py ended with status {status}; restart {attempt + 1} of {restarts}", file=sys.stderr)
            time.sleep(pause_seconds)
            if stopped:
                break
        return status
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def without_flag(arguments: Sequence[str]) -> list[str]:
    """The arguments of the child: without `--restart-on-failure N` or `--restart-on-failure=N`."""
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        name, _, value = word.partition("=")
        if name.replace("_", "-") == FLAG:
            if not value:
                next(words, None)
        else:
            kept.append(word)
    return kept
