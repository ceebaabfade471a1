"""`--restart-on-failure` and the watchdog: an unattended run goes on after a crash or a hang."""

import signal
import subprocess
import sys
import time

import jax
import pytest

from resnet_jax.errors import EXIT_HUNG
from resnet_jax.runtime.restart import run_with_restarts, without_flag
from resnet_jax.survival.watchdog import Watchdog

from .conftest import ROOT, assert_same_run, finish

# Ends as the words in the file say, one word for each start.
SCRIPT = """
import os, pathlib, signal, sys, time
path = pathlib.Path(sys.argv[1])
word, *rest = path.read_text().split()
path.write_text(" ".join(rest))
if word == "wait":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    path.with_name("waiting").touch()
    time.sleep(60)
if word.startswith("SIG"):
    os.kill(os.getpid(), getattr(signal, word))
sys.exit(int(word))
"""


@pytest.mark.parametrize(
    ("ends", "restarts", "status", "left"),
    [
        ("0 0", 3, 0, "0"),
        ("SIGKILL 76 70 0", 3, 0, ""),  # killed for memory, hung, crashed, complete
        ("SIGSEGV SIGSEGV SIGSEGV 0", 2, 128 + signal.SIGSEGV, "0"),
        ("1 0", 3, 1, "0"),  # a mistake stays one
        ("2 0", 3, 2, "0"),
        ("76 75 0", 3, 75, "0"),  # preempted: the machine is wanted back
        ("70 0", 0, 70, "0"),
    ],
)
def test_crashes_are_restarted_and_other_ends_are_final(tmp_path, ends, restarts, status, left, capfd):
    path = tmp_path / "ends"
    path.write_text(ends)
    command = [sys.executable, "-c", SCRIPT, str(path)]
    assert run_with_restarts(command, restarts, pause_seconds=0) == status
    assert path.read_text() == left
    starts = len(ends.split()) - len(left.split())
    assert capfd.readouterr().err.count("restart ") == starts - 1


def test_a_signal_is_handed_on_and_ends_the_restarts(tmp_path):
    path = tmp_path / "ends"
    path.write_text("wait 0")
    command = [sys.executable, "-c", SCRIPT, str(path)]
    program = f"import sys; from resnet_jax.runtime.restart import *; sys.exit(run_with_restarts({command!r}, 5))"
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    while not (tmp_path / "waiting").exists():
        assert parent.poll() is None
        time.sleep(0.01)
    parent.terminate()
    assert parent.wait(timeout=3000) == 75
    assert path.read_text() == "0"


def test_the_child_does_not_restart():
    flag = "--restart-on-failure"
    assert without_flag(["a.py", flag, "3", "--epochs", "1"]) == ["a.py", "--epochs", "1"]
    assert without_flag([f"{flag}=3", "--epochs=1"]) == ["--epochs=1"]
    assert without_flag(["--restart_on_failure", "3"]) == []


# In Python, and within a compiled program, where no exception and no signal handler of Python's gets through.
HANGS = {
    "in Python": "time.sleep(600)",
    "in XLA": "jax.jit(lambda: jax.pure_callback(sleep, jax.ShapeDtypeStruct((), np.float32)))().block_until_ready()",
}
HANGS_ONCE = """
import pathlib, time
import jax, numpy as np
from resnet_jax.training import loop
def sleep():
    time.sleep(600)
    return np.float32(0)
put_batch, steps, hung = loop.put_batch, iter(range(1, 1000)), pathlib.Path({hung!r})
def hanging(*args):
    if next(steps) == 8 and not hung.exists():
        hung.touch()
        {hang}
    return put_batch(*args)
loop.put_batch = hanging
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", HANGS)
def test_a_step_that_hangs_ends_the_run_and_the_next_attempt_completes_it(
    tiny, start, straight_process, tmp_path, where
):
    extra = HANGS_ONCE.format(hung=str(tmp_path / "hung"), hang=HANGS[where])
    output = finish(start(tmp_path / "run", "--watchdog-seconds", "5", extra=extra), EXIT_HUNG)
    assert "error: step 8 is not over after " in output
    assert "in hanging" in output, "the stack of the thread that hangs"
    assert "Current thread" in output
    assert f"\n{jax.devices()[0]}: " in output, "what the device says"
    assert "Stopped with status 76. The last checkpoint is whole" in output
    assert "after step 6 of 11" in finish(start(tmp_path / "run", extra=extra))
    assert_same_run(tmp_path / "run", straight_process)


def test_the_watchdog_is_silent_while_it_is_told_of_progress(monkeypatch):
    ends = []
    monkeypatch.setattr(Watchdog, "_end", lambda self: ends.append(self._what))
    with Watchdog(0.5) as watchdog:
        for step in range(8):
            watchdog.expect(f"step {step}")
            time.sleep(0.1)
        watchdog.expect("an evaluation", patience=100)
        time.sleep(0.8)
        assert not ends
        watchdog.expect("the last step")
        time.sleep(0.8)
    assert ends[0] == "the last step"
    with Watchdog(0) as watchdog:
        watchdog.expect("anything")


def test_train_py_restarts_itself(tmp_path):
    """A mistake is final: said once, with status 1."""
    command = [sys.executable, "train.py", "--workdir", str(tmp_path / "run"), "--data.name", "digit"]
    command += ["--restart-on-failure", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 1
    assert done.stderr.count("unknown data set 'digit'") == 1
