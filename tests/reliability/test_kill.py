"""SIGKILL at any moment: the run that goes on is the run that was never killed."""

import contextlib
import json
import random
import signal
import socket
import subprocess

import pytest

from .conftest import assert_same_run, finish

# Kills the process a moment (up to `delay` seconds) after the `count`-th call of something in this session began.
KILLED = """
import os, random, signal, threading, time
from resnet_jax.training import checkpoint, loop, metrics

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
        survivor.wait(timeout=400)
    finally:
        survivor.kill()
    out, err = survivor.communicate()
    assert survivor.returncode != 0, out + err
    assert_valid(tmp_path)
    for process in start_pair(start, tmp_path):
        finish(process)
    assert_same_run(tmp_path, straight_pair)


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
    assert "stopped after step" in outputs[0]
    assert outputs[0].splitlines()[-1] == outputs[1].splitlines()[-1] or "after step" in outputs[1]
    for process in start_pair(start, tmp_path):
        finish(process)
    assert_same_run(tmp_path, straight_pair)
