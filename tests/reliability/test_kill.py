"""SIGKILL at any moment: the run that goes on is the run that was never killed."""

import contextlib
import json
import random
import re
import signal
import socket
import subprocess

import pytest

from resnet_jax.errors import EXIT_HUNG

from .conftest import assert_same_run, finish
from .test_storage import MEGABYTE, mounted

# Kills the process a moment (up to `delay` seconds) after the `count`-th call of something in this session began.
KILLED = """
import os, random, signal, threading, time
from resnet_jax.training import loop
from resnet_jax.survival import checkpoint
from resnet_jax.logs import run_log as metrics

def kill():
    time.sleep(random.uniform(0, {delay}))
    os.kill(os.getpid(), signal.SIGKILL)

def arm(home, name, count):
    original, calls = getattr(home, name), iter(range(1, 1000))
    def armed(*args, **options):
        if next(calls) == count:
            threading.Thread(target=kill).start()
        return original(*args, **options)
    setattr(home, name, armed)

event, count = {event!r}, {count}
if event == "step":
    arm(loop, "put_batch", count)
elif event == "save":
    arm(checkpoint.Checkpoints, "save", count)
elif event == "evaluation":
    arm(metrics.RunLog, "write_train", count)  # what follows, where it is due
elif event == "log":
    arm(metrics.RunLog, "write_eval", count)
"""


# Leaves no room on the disk once the first checkpoint is whole.
FILLED = """
import contextlib, pathlib, time
from resnet_jax.training import loop
put_batch, steps, filler = loop.put_batch, iter(range(1, 1000)), pathlib.Path({filler!r})
def filling(*args):
    if next(steps) == 5:
        while not (filler.parent / "run/checkpoints/00000003").exists():
            time.sleep(0.01)
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
    return put_batch(*args)
loop.put_batch = filling
"""


def assert_valid(workdir):
    """Every line of the log is whole JSON, and no config or result is torn."""
    for name in ("metrics.jsonl", "config.json", "class_names.json", "result.json"):
        path = workdir / name
        for text in path.read_text().splitlines() if name == "metrics.jsonl" and path.exists() else []:
            json.loads(text)
        if name != "metrics.jsonl" and path.exists():
            json.loads(path.read_text())


def killed(start, workdir, event, count, delay, *arguments):
    extra = KILLED.format(event=event, count=count, delay=delay)
    finish(start(workdir, *arguments, extra=extra), -signal.SIGKILL)
    assert_valid(workdir)


@pytest.mark.slow
def test_killed_in_a_step_an_evaluation_and_a_save(tiny, start, straight_process, tmp_path):
    killed(start, tmp_path, "save", 2, 0.05)
    killed(start, tmp_path, "evaluation", 1, 0.05)
    killed(start, tmp_path, "step", 5, 0.05)
    assert not (tmp_path / "result.json").exists()
    assert "Resuming" in finish(start(tmp_path))
    assert_same_run(tmp_path, straight_process)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_20_kills_at_random_moments(tiny, start, tmp_path):
    long = ("--epochs", "12")  # 134 steps, saved every third: more than 20 short sessions come to
    finish(start(tmp_path / "straight", *long))
    workdir, rng = tmp_path / "killed", random.Random(0)
    for kill in range(20):
        event = ("save", "evaluation", "step", "any")[kill % 4]
        extra = KILLED.format(event="step" if event == "any" else event, count=rng.randint(1, 2), delay=0.1)
        process = start(workdir, *long, extra=extra)
        if event == "any":  # also while it starts, opens its files, restores
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=rng.uniform(1, 12))
            process.kill()
        finish(process, -signal.SIGKILL)
        assert_valid(workdir)
        assert not (workdir / "result.json").exists(), f"it ended after {kill} kills"
    finish(start(workdir, *long))
    assert_same_run(workdir, tmp_path / "straight")


def start_pair(start, workdir, *arguments, extra=""):
    """Two processes of one run; `extra` is for the second."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    slurm = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_LOCALID": "0"}
    network = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo"}
    return [
        start(
            workdir,
            "--distributed",
            *arguments,
            extra=extra if rank == 1 else "",
            SLURM_PROCID=str(rank),
            **slurm,
            **network,
        )
        for rank in range(2)
    ]


@pytest.fixture(scope="module")
def straight_pair(start, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("straight_pair")
    for process in start_pair(start, workdir):
        finish(process)
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize(("event", "count"), [("step", 5), ("save", 2), ("evaluation", 2)])
def test_one_of_two_processes_is_killed(tiny, start, straight_pair, tmp_path, event, count):
    extra = KILLED.format(event=event, count=count, delay=0.05)
    survivor, victim = start_pair(start, tmp_path, "--watchdog-seconds", "30", extra=extra)
    finish(victim, -signal.SIGKILL)
    try:
        survivor.wait(timeout=3000)
    finally:
        survivor.kill()
    out, err = survivor.communicate()
    assert survivor.returncode != 0, out + err
    assert_valid(tmp_path)
    for process in start_pair(start, tmp_path):
        finish(process)
    assert_same_run(tmp_path, straight_pair)


@pytest.mark.slow
def test_a_process_that_stands_still_hangs_the_other_which_its_watchdog_ends(tiny, start, straight_pair, tmp_path):
    """Its peer waits for it in a collective; nothing but the watchdog can end that."""
    extra = KILLED.format(event="step", count=5, delay=0).replace("SIGKILL", "SIGSTOP")
    survivor, stopped = start_pair(start, tmp_path, "--watchdog-seconds", "10", extra=extra)
    try:
        output = finish(survivor, EXIT_HUNG)
    finally:
        stopped.kill()
    finish(stopped, -signal.SIGKILL)
    assert re.search(r"error: step [567] is not over after 1\d s; every thread:", output)
    for process in start_pair(start, tmp_path):
        finish(process)
    assert_same_run(tmp_path, straight_pair)


@pytest.mark.slow
def test_a_disk_that_is_full_stops_both_of_two_processes(tiny, start, straight_pair, tmp_path):
    """Whatever on_error says: one of them cannot go on alone."""
    with mounted(tmp_path / "disk", f"size={16 * MEGABYTE}") as disk:
        options = ("--checkpoint.on-error", "continue", "--watchdog-seconds", "10")
        processes = start_pair(start, disk / "run", *options, extra=FILLED.format(filler=str(disk / "filler")))
        try:
            outputs = [finish(process, None) for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert "could not be written" in outputs[0]
        assert processes[0].returncode == 1
        assert processes[1].returncode != 0
        (disk / "filler").unlink()
        for process in start_pair(start, disk / "run"):
            finish(process)
        assert_same_run(disk / "run", straight_pair)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_of_two_processes_stops_both_at_the_same_step(tiny, start, straight_pair, tmp_path, rank):
    program = """
import os, signal
from resnet_jax.training import loop
put_batch, steps = loop.put_batch, iter(range(1, 1000))
def signalled(*args):
    if next(steps) == 5 and os.environ["SLURM_PROCID"] == "{rank}":
        os.kill(os.getpid(), signal.SIGTERM)
    return put_batch(*args)
loop.put_batch = signalled
"""
    extra = program.format(rank=rank)
    if rank == 0:  # both get the program, one of them acts
        processes = start_pair(lambda *args, **options: start(*args, **{**options, "extra": extra}), tmp_path)
    else:
        processes = start_pair(start, tmp_path, extra=extra)
    outputs = [finish(process, 75) for process in processes]
    stopped = [re.findall(r"stopped after step (\d+) of 11", output) for output in outputs]
    assert len(stopped[0]) == 1
    assert stopped[0] == stopped[1]
    assert f"{int(stopped[0][0]):08}" in [path.name for path in (tmp_path / "checkpoints").iterdir()]
    for process in start_pair(start, tmp_path):
        finish(process)
    assert_same_run(tmp_path, straight_pair)
