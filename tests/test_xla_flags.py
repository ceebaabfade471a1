"""The flags that our commands set: they are known to XLA, do what they are for, and respect the user's own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from resnet_jax import cli
from resnet_jax.runtime import xla_flags

ROOT = Path(__file__).parent.parent
OURS = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, OURS),
        ("--xla_dump_to=/x", f"--xla_dump_to=/x {OURS}"),
        ("--xla_cpu_experimental_ynn_fusion_type=reduce", "--xla_cpu_experimental_ynn_fusion_type=reduce"),
        (OURS, OURS),
    ],
)
def test_what_the_user_set_stays(monkeypatch, given, expected):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    if given is not None:
        monkeypatch.setenv("XLA_FLAGS", given)
    xla_flags.set_xla_flags()
    assert os.environ["XLA_FLAGS"] == expected


def test_another_version_gets_none(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(xla_flags, "version", lambda name: "0.11.0")
    xla_flags.set_xla_flags()
    assert "XLA_FLAGS" not in os.environ


def test_a_machine_with_tpus_gets_none(monkeypatch):
    """Their library has an XLA of its own, of whatever version."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(xla_flags, "find_spec", lambda name: name == "libtpu")
    xla_flags.set_xla_flags()
    assert "XLA_FLAGS" not in os.environ


def test_commands_set_them(monkeypatch, capsys):
    monkeypatch.setenv("XLA_FLAGS", "")
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    assert os.environ["XLA_FLAGS"] == OURS


def test_a_convolution_is_one_of_eigen():
    """XLA's own operation, not one handed to YNNPACK: these tests set the flags as commands do."""
    images, kernel = jnp.ones((2, 8, 8, 64)), jnp.ones((3, 3, 64, 64))

    def convolve(images, kernel):
        return lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    text = jax.jit(convolve).lower(images, kernel).compile().as_text()
    assert " convolution(" in text
    assert "ynn" not in text


def test_importing_the_package_leaves_the_environment_alone():
    code = "import os, json, resnet_jax.models, resnet_jax.run.train; print(json.dumps(os.environ.get('XLA_FLAGS')))"
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    out = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, check=True, capture_output=True)
    assert json.loads(out.stdout) is None
