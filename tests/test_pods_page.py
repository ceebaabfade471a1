"""The commands of docs/pods.md are understood, and what it says of the code is so."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest
import tyro

from resnet_jax.cli import COMMANDS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "pods.md").read_text()
BLOCKS = [text.replace("\\\n", " ") for text in re.findall(r"^```\n(.*?)^```$", PAGE, re.M | re.S)]
COMMANDS_OF_TRAIN = re.findall(r"train\.py (configs/[^\n\"]*)", "\n".join(BLOCKS))


@pytest.fixture(scope="module")
def train():
    spec = importlib.util.spec_from_file_location("train_script", ROOT / "train.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_script"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("line", COMMANDS_OF_TRAIN)
def test_every_command_is_understood(train, line):
    config, *words = shlex.split(line)
    default = train.Arguments(config=train.read_config_file(ROOT / config), workdir="runs")
    asked = tyro.cli(train.Arguments, default=default, args=words)
    assert asked != default


def test_there_are_commands_for_every_place():
    assert len(COMMANDS_OF_TRAIN) >= 6
    assert "python -m resnet_jax memory" in PAGE
    assert "memory" in COMMANDS


def test_tests_and_files_that_are_named_exist():
    for name in re.findall(r"`(?:tests/training/)?(test_\w+\.py)`", PAGE):
        assert (ROOT / "tests" / "training" / name).exists(), name
    assert (ROOT / "benchmarks" / "scaling.py").exists()
