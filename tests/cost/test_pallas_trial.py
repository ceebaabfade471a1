"""The kernels of benchmarks/pallas_trial.py, interpreted, compute what the plain forms compute."""

import importlib.util
from pathlib import Path

import jax.numpy as jnp
import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "pallas_trial.py"


@pytest.fixture(scope="module")
def trial():
    spec = importlib.util.spec_from_file_location("pallas_trial", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", ["sum", "mask"])
def test_a_kernel_is_the_plain_form(trial, kind):
    assert trial.difference(kind, interpret=True, rows=256, dtype=jnp.float32) < 1e-6


def test_without_a_gpu_it_says_what_can_be_done(trial, monkeypatch):
    monkeypatch.setattr("sys.argv", ["pallas_trial.py"])
    with pytest.raises(SystemExit, match="there is no GPU here; --target h100:1 compiles for one"):
        trial.main()
