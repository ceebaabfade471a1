"""A study that is stopped, killed, or run in several processes ends with the table of one that nothing disturbed."""

import csv
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax.cli import main
from resnet_jax.errors import EXIT_PREEMPTED
from resnet_jax.run import result, train
from resnet_jax.studies.runs import places_of

from .tiny import ROOT, write_study

pytestmark = pytest.mark.usefixtures("compile_quickly")
RATES = "axes={'rate': {str(n): {'optim.base_lr': n / 10} for n in range(1, 9)}}, seeds=(0, 1, 2)"
TIMINGS = ("seconds mean", "seconds sd")


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch):
    monkeypatch.setattr(result, "plot_curves", lambda *_: None)


def table(workdir):
    """The table but for its timings."""
    with (workdir / "table.csv").open() as file:
        return [{name: value for name, value in row.items() if name not in TIMINGS} for row in csv.DictReader(file)]


def start(file, workdir, *line):
    """The command in a process of its own, on one device, as an 8 times as quick compiler makes it."""
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "COLUMNS": "120"}
    command = [sys.executable, "-m", "resnet_jax", "study", file, "--workdir", workdir, *line]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*map(str, command)], cwd=ROOT, env=environment, **pipes)


def finish(process, status):
    said, _ = process.communicate(timeout=3000)
    assert process.returncode == status, said
    return said


def test_a_study_that_is_stopped_goes_on(tmp_path, monkeypatch, capsys):
    """SIGTERM in the second of two runs, after its second step; or before it."""
    file = write_study(tmp_path / "tiny.py", "axes={'network': NETWORKS}, seeds=(0,)")
    main(["study", str(file), "--workdir", str(tmp_path / "straight")])
    with monkeypatch.context() as patch:
        asked = iter([False] * 6 + [True])  # before a run, and after each step but its last
        patch.setattr(train.StopRequest, "asked", lambda self: next(asked))
        with pytest.raises(SystemExit, match=str(EXIT_PREEMPTED)):
            main(["study", str(file), "--workdir", str(tmp_path / "stopped")])
    assert "stopped after step" in capsys.readouterr().out
    partial = table(tmp_path / "stopped")  # it says what is missing
    assert [(row["n"], row["missing"]) for row in partial] == [("1", ""), ("0", "seed 0: not complete yet")]
    with monkeypatch.context() as patch:
        patch.setattr(train.StopRequest, "asked", lambda self: True)
        with pytest.raises(SystemExit, match=str(EXIT_PREEMPTED)):
            main(["study", str(file), "--workdir", str(tmp_path / "stopped")])
    assert "stopped before residual, seed 0; run the same command again to continue" in capsys.readouterr().out
    main(["study", str(file), "--workdir", str(tmp_path / "stopped")])
    assert table(tmp_path / "stopped") == table(tmp_path / "straight")


@pytest.mark.slow
def test_a_study_of_24_runs_that_is_killed_three_times_has_the_same_table(tmp_path):
    """SIGKILL, SIGTERM, SIGKILL, each when a few more runs are complete."""
    file = write_study(tmp_path / "tiny.py", RATES)
    finish(start(file, tmp_path / "straight"), 0)
    killed = tmp_path / "killed"
    done = lambda: len([*killed.glob("*/seed*/result.json")])
    for number, how in ((3, signal.SIGKILL), (9, signal.SIGTERM), (15, signal.SIGKILL)):
        process = start(file, killed)
        while done() < number and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(how)
        finish(process, EXIT_PREEMPTED if how == signal.SIGTERM else -how)
        assert number <= done() < 24
    finish(start(file, killed), 0)
    assert done() == 24
    assert table(killed) == table(tmp_path / "straight")
    for folder in killed.glob("*/seed*"):
        same = tmp_path / "straight" / folder.relative_to(killed)
        jax.tree.map(np.testing.assert_array_equal, rn.load_run(folder).state, rn.load_run(same).state)


@pytest.mark.slow
def test_runs_in_several_processes_are_the_same_runs(tmp_path):
    """Two at a time; a rate of 1e30 diverges in its process, and the others go on."""
    rates = "{'0.2': {'optim.base_lr': 0.2}, '1e30': {'optim.base_lr': 1e30}, '0.3': {'optim.base_lr': 0.3}}"
    file = write_study(tmp_path / "tiny.py", f"axes={{'rate': {rates}}}, seeds=(0, 1)")
    said = finish(start(file, tmp_path / "two", "--processes", "2"), 1)
    assert "error: 2 of 6 runs failed" in said
    assert "1e30, seed 1: the loss is" in said
    finish(start(file, tmp_path / "one"), 1)
    assert table(tmp_path / "two") == table(tmp_path / "one")
    for folder in (tmp_path / "one").glob("0.*/seed*"):
        same = tmp_path / "two" / folder.relative_to(tmp_path / "one")
        jax.tree.map(np.testing.assert_array_equal, rn.load_run(folder).state, rn.load_run(same).state)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_children_stop_with_their_parent(tmp_path, how):
    """SIGTERM: they save. SIGKILL: they end, so the command that goes on meets nobody."""
    long = "{'1': {'optim.base_lr': 0.1}, '2': {'optim.base_lr': 0.2}}"
    settings = "{'epochs': 100000.0, 'checkpoint.every_epochs': 5.0}"
    file = write_study(tmp_path / "tiny.py", f"axes={{'rate': {long}}}, seeds=(0,), settings={settings}")
    process = start(file, tmp_path / "out", "--processes", "2")
    saved = lambda: [*(tmp_path / "out").glob("*/seed0/checkpoints/0*")]
    while len({path.parts[-4] for path in saved()}) < 2 and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(how)
    finish(process, EXIT_PREEMPTED if how == signal.SIGTERM else -how)
    wait_until(lambda: not children_of(tmp_path))
    assert len({path.parts[-4] for path in saved()}) == 2


def children_of(folder):
    """Processes whose command line names this folder."""
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if "resnet_jax.studies.child" in line and str(folder) in line]


def wait_until(true):
    while not true():
        time.sleep(0.1)


def test_each_gpu_has_a_process_of_its_own():
    assert places_of(1, ("0", "3")) == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "3"}]
    assert places_of(3, ()) == [{"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.300"}] * 3  # JAX takes it beforehand
