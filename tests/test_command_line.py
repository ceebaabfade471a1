"""What `train.py` says to a mistaken command line, and a command that needs no run."""

import pytest

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
