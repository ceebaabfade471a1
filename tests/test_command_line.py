"""What `train.py` says to a mistaken command line, and a command that needs no run."""

from pathlib import Path

import pytest

from resnet_jax.config_file import find_config

from .test_run import python


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
