"""Whole runs of `train.py` in several processes, two of which are killed; and on other machines than it began on."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax.errors import EXIT_PREEMPTED
from resnet_jax.models import create_model
from resnet_jax.tasks import assemble

from .test_processes import free_port

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.slow

# What `python train.py` does, with a network of a few layers; `extra` is done before.
PROGRAM = """
import os, runpy, signal, sys, threading, time
sys.argv[0] = {train!r}
from resnet_jax.tasks import assemble
from resnet_jax.models import create_model
from resnet_jax.training import loop
assemble.build_model = lambda config: create_model(
    "cifar_resnet29", num_classes=10, zero_init_residual=True, stage_sizes=(1,), bn_group_size=4
)
def at_step(number, act, put_batch=loop.put_batch, calls=iter(range(1, 1000))):
    def acting(*arguments):
        if next(calls) == number:
            act()
        return put_batch(*arguments)
    loop.put_batch = acting
{extra}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
ARGUMENTS = [
    *("--epochs", "1", "--batch-size", "128", "--model.bn-group-size", "4", "--optim.warmup-epochs", "0"),
    *("--eval-every-epochs", "0.25", "--checkpoint.every-epochs", "0.25", "--optim.ema-decay", "0.9"),
]
KILL = "at_step(5, lambda: threading.Timer(0.02, os.kill, [os.getpid(), signal.SIGKILL]).start())"
STOP = "at_step(5, lambda: os.kill(os.getpid(), signal.SIGTERM))"


def start(workdir, *arguments, extra="", devices=1):
    code = PROGRAM.format(train=str(ROOT / "train.py"), extra=extra)
    # XLA's own choice of convolutions: those that our flag chooses round differently on another number of devices.
    convolutions = "--xla_cpu_experimental_ynn_fusion_type=+individual_convolution"
    flags = f"--xla_force_host_platform_device_count={devices} {convolutions}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo"}
    command = [sys.executable, "-c", code, *ARGUMENTS, "--workdir", str(workdir), *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)


def start_all(workdir, processes, *arguments, extra=None):
    """One run in several processes; `extra` by process."""
    address = ("--coordinator", f"127.0.0.1:{free_port()}", "--processes", str(processes))
    return [
        start(workdir, *address, "--process", str(rank), *arguments, extra=(extra or {}).get(rank, ""))
        for rank in range(processes)
    ]


def finish(process, status=0):
    out, err = process.communicate(timeout=3000)
    assert process.returncode == status, f"{process.returncode}\n{out}\n{err}"
    return out + err


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    options = {"num_classes": 10, "zero_init_residual": True, "stage_sizes": (1,), "bn_group_size": 4}
    monkeypatch.setattr(assemble, "build_model", lambda config: create_model("cifar_resnet29", **options))


def state_of(workdir):
    return jax.device_get(rn.load_run(workdir).state)


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("four")
    for process in start_all(workdir, 4):
        finish(process)
    return workdir


@pytest.mark.parametrize("killed", [(2, 3), (0, 3)])
def test_two_of_four_are_killed_in_mid_step(four, tmp_path, killed):
    """The others end by themselves and say why; started again, the run is the run that was not killed."""
    processes = start_all(tmp_path, 4, "--lost-after-seconds", "20", extra=dict.fromkeys(killed, KILL))
    for rank in killed:
        finish(processes[rank], -signal.SIGKILL)
    for rank in {0, 1, 2, 3} - set(killed):
        _, err = processes[rank].communicate(timeout=3000)
        assert processes[rank].returncode not in (0, 1, None), err
        lost = f"error: process {rank} of 4 has lost another process of this run"
        assert lost in err or "JAX distributed service detected fatal errors" in err, err
    for process in start_all(tmp_path, 4):
        finish(process)
    jax.tree.map(np.testing.assert_array_equal, state_of(tmp_path), state_of(four))


def test_begun_on_eight_devices_and_continued_by_two_processes(four, tmp_path):
    finish(start(tmp_path, extra=STOP, devices=8), EXIT_PREEMPTED)
    outputs = [finish(process) for process in start_all(tmp_path, 2, "--optim.shard-state", "--accumulate", "2")]
    assert "Resuming" in outputs[0]
    close = lambda ours, expected: np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4)
    jax.tree.map(close, state_of(tmp_path), state_of(four))
