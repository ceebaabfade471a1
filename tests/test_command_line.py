"""What `train.py` says to a mistaken command line, and a command that needs no run."""

import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from resnet_jax import cli
from resnet_jax.config_files import find_config
from resnet_jax.display import bytes_of

from .test_run import ROOT, python


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["configs/digit.py"], "Did you mean configs/digits.py"),
        (["--optim.bas-lr", "1"], "--optim.base-lr"),
        (["--optim.momentum", "2"], "it must be >= 0 and < 1"),
        (["--model.name", "resnet_50"], "unknown model 'resnet_50'. Did you mean"),
        (["--model.num-classes", "7"], "digits has 10 classes; set model.num_classes = 10"),
        (["--model.bn-group-size", "7"], "the nearest that are: 63 or 70"),
        (["--data.name", "digit"], "unknown data set 'digit'. Did you mean 'digits'?"),
        (["--data.name", "folder:photos"], "no config was named, and configs/digits.py is for the digits: "),
        (["--data.name", "folder:photos"], "python train.py configs/photos.py --data.name folder:photos"),
        (["--optim.no-decay", "*bn"], "'*bn' is no regular expression"),
        (["configs/digits.py", "--epochs", "1", "configs/photos.py"], "several config files are named"),
        (["README.md"], "README.md is no Python file that can be read"),
        (["--data.eval-split", "tset"], "unknown split of digits 'tset'. Did you mean 'test'?"),
    ],
)
def test_bad_arguments_end_with_a_message_before_anything_is_written(tmp_path, arguments, message):
    done = python("train.py", *arguments, "--workdir", tmp_path / "run", check=False)
    assert done.returncode != 0
    assert message in (done.stdout + done.stderr).replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_models_prints_the_facts():
    table = python("-m", "resnet_jax", "models", "--pattern", "resnet1*").stdout
    assert "60,192,808" in table
    assert "11.5136" in table
    assert "resnet50" not in table


def test_nothing_heavy_is_imported_to_say_what_there_is():
    """Help, a wrong option and the list of networks answer at once: JAX alone takes longer to import."""
    lines = [["--help"], ["models"], ["models", "--no-such", "1"], ["train", "--help"], ["train", "--no-such", "1"]]
    code = f"""
import sys
import resnet_jax
from resnet_jax.cli import main
for line in {lines}:
    try:
        main(line)
    except SystemExit as stop:
        assert stop.code in (0, 2), stop
heavy = {{"jax", "flax", "optax", "orbax", "grain", "pyarrow", "cv2", "numba", "sklearn", "matplotlib"}}
assert not heavy & {{*sys.modules}}, heavy & {{*sys.modules}}
"""
    out = python("-c", code).stdout
    assert "resnet_jax models" in out
    assert "cifar_wide_resnet16_8" in out
    assert "--optim.base-lr" in out


@pytest.mark.parametrize(
    ("line", "config"),
    [
        ("c.py --epochs 3", "c.py"),
        ("--epochs 3 c.py", "c.py"),
        ("--epochs=3 c.py --batch-size 4", "c.py"),
        ("--optim.nesterov c.py", "c.py"),
        ("--optim.no-nesterov c.py", "c.py"),
        ("--no-compilation-cache c.py", "c.py"),
        ("--optim.drop-epochs 1 2 c.py", "c.py"),
        ("--workdir x.py", None),
        ("--epochs 3", None),
        ("c --epochs 3", "c"),
    ],
)
def test_a_config_may_stand_anywhere_on_the_line(line, config):
    named, rest = find_config(line.split())
    assert named == (config and Path(config))
    assert rest == [word for word in line.split() if word != config]


def test_the_version_and_the_command():
    assert re.match(r"resnet_jax 0\.1\.0 \(jax \S+, Python \S+\)", python("-m", "resnet_jax", "--version").stdout)
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts["resnet_jax"].partition(":")
    assert getattr(import_module(module), function) is cli.main


def test_train_is_a_command_too(tmp_path):
    """With the exit statuses and the messages of `train.py`."""
    done = python("-m", "resnet_jax", "train", "--epochs", "1", "absent.py", check=False)
    assert (done.returncode, done.stderr[:40]) == (1, "error: config file absent.py does not ex")
    done = python("-m", "resnet_jax", "train", "--optim.momentum", "2", "--workdir", tmp_path / "run", check=False)
    assert done.returncode == 2
    assert "resnet_jax train configs/digits.py --help" in done.stdout + done.stderr
    assert "train" in python("-m", "resnet_jax", "--help").stdout


def test_a_reader_that_leaves_is_no_error():
    command = f"{sys.executable} -m resnet_jax models -p 'resnet1*' | head -1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert "name" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_file_that_is_missing_is_said_before_torch_is_imported(tmp_path):
    code = f"""
import sys
from resnet_jax.cli import main
for word in ("{tmp_path}/absent.pth", "{tmp_path}/absent.safetensors"):
    try:
        main(["convert", word, "{tmp_path}/out.pth"])
    except SystemExit as error:
        assert "there is no file" in str(error), error
assert "torch" not in sys.modules and "grain" not in sys.modules
"""
    python("-c", code)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (820_000, "820 KB"),
        (3_210_000, "3.21 MB"),
        (12_345_678_901, "12.3 GB"),
        (4e12, "4,000 GB"),
    ],
)
def test_bytes_have_the_unit_in_which_they_can_be_read(count, text):
    assert bytes_of(count) == text


def test_data_info_is_short_at_a_thousand_classes(tmp_path):
    counts = np.random.default_rng(0).permutation(np.arange(1000) % 7 + 1)
    labels = np.repeat(np.arange(1000), counts)
    np.savez(tmp_path / "x.npz", train_images=np.zeros((len(labels), 1, 1), np.uint8), train_labels=labels)
    short = python("-m", "resnet_jax", "data", "info", f"npz:{tmp_path}/x.npz").stdout
    assert len(short.splitlines()) < 45
    assert "... 980 classes with 1 to 7 ..." in short
    assert "--all-classes shows all" in short
    assert (
        len(python("-m", "resnet_jax", "data", "info", f"npz:{tmp_path}/x.npz", "--all-classes").stdout.splitlines())
        > 1000
    )
