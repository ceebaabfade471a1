"""Digits runs with a network of a few layers, in this process or in one that can be killed."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

import resnet_jax as rn
from resnet_jax.logs.run_log import read_metrics
from resnet_jax.models import create_model
from resnet_jax.run import result
from resnet_jax.tasks import assemble

ROOT = Path(__file__).parent.parent.parent
STEPS = 11
# Logged at 4, 8 and wherever it is evaluated; evaluated and saved at 3, 6, 9 and 11.
ARGUMENTS = [
    *("--epochs", "1", "--batch-size", "128", "--log-every-steps", "4", "--optim.warmup-epochs", "0"),
    *("--eval-every-epochs", "0.25", "--checkpoint.every-epochs", "0.25"),
]


def tiny_model(config):
    return create_model("cifar_resnet20", num_classes=10, zero_init_residual=True, stage_sizes=(1,))


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """A folder that remembers compiled programs, so that a restart costs seconds less."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(autouse=True)
def _remember_compiled_programs(compiled):
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in zip(names, (str(compiled), 0), strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def make_tiny(patch):
    patch.setattr(assemble, "build_model", tiny_model)
    patch.setattr(result, "plot_curves", lambda *_: None)  # a third of the time of a run as short as these


@pytest.fixture
def tiny(monkeypatch):
    make_tiny(monkeypatch)


def config(*arguments):
    return rn.load_config(ROOT / "configs" / "digits.py", [*ARGUMENTS, *arguments])


def records(workdir):
    """The log but for its timings."""
    timings = ("seconds", "images_per_second", "data_wait")
    return [{k: v for k, v in record.items() if k not in timings} for record in read_metrics(workdir)]


def state_of(workdir):
    return jax.device_get(rn.load_run(workdir).state)


def assert_same_run(workdir, other):
    """The same parameters, statistics, momentum and key, bit for bit, and the same log."""
    jax.tree.map(np.testing.assert_array_equal, state_of(workdir), state_of(other))
    assert records(workdir) == records(other)


@pytest.fixture(scope="session")
def straight(tmp_path_factory, compiled):
    """A run in this process that nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        make_tiny(patch)
        workdir = tmp_path_factory.mktemp("straight")
        rn.train(config(), workdir)
    return workdir


# What `python train.py` does, with the tiny network, and with what a test adds.
PROGRAM = """
import runpy, sys
sys.argv[0] = {train!r}
from resnet_jax.run import result
from resnet_jax.tasks import assemble
from resnet_jax.models import create_model
assemble.build_model = lambda config: create_model(
    "cifar_resnet20", num_classes=10, zero_init_residual=True, stage_sizes=(1,)
)
{extra}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="session")
def start(compiled):
    """Starts `train.py` in a process of its own, on one device; compiled programs are shared between the processes."""
    environment = {
        **os.environ,
        "XLA_FLAGS": "",
        "COLUMNS": "120",
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }

    def start(workdir, *arguments, extra="", **more):
        program = PROGRAM.format(train=str(ROOT / "train.py"), extra=extra)
        command = [sys.executable, "-c", program, *ARGUMENTS, "--workdir", str(workdir), *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=ROOT, env={**environment, **more}, **pipes)

    return start


@pytest.fixture(scope="session")
def straight_process(start, tmp_path_factory):
    """A run in a process of its own (on one device, where this one has eight) that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("straight_process")
    finish(start(workdir))
    return workdir


def finish(process, status=0, seconds=3000):
    """Waits for a process; returns what it printed, with what it complained about. A status of None is any."""
    out, err = process.communicate(timeout=seconds)
    assert status in (process.returncode, None), f"{process.returncode}\n{out}\n{err}"
    return out + err
