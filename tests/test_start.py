"""A run that starts from weights: what is taken and made new, and what its checkpoints hold of what is frozen."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax.errors import CheckpointError, ConfigError, Preempted, WeightsError
from resnet_jax.run.start import load_beginning
from resnet_jax.survival.digests import by_name
from resnet_jax.survival.signals import StopRequest
from resnet_jax.tasks.table import settled, task_of
from resnet_jax.weights import save_weights

from .weights.networks import random_variables

ROOT = Path(__file__).parent.parent
ALL_BUT_THE_HEAD = (rn.Group(pattern="^(?!fc/)", rate=0.0),)
SMALL = ("--epochs", "1", "--batch-size", "128", "--model.bn-group-size", "16", "--model.name", "cifar_resnet8")


def config_of(weights, groups=(), *arguments, **start):
    config = vars(rn.load_config(ROOT / "configs" / "digits.py", [*SMALL, *arguments]))
    optim = rn.OptimConfig(**{**vars(config["optim"]), "warmup_epochs": 0.0, "groups": groups, "base_lr": 0.1})
    return rn.Config(**{**config, "optim": optim, "start": rn.Start(weights=str(weights), **start)})


pytestmark = pytest.mark.usefixtures("short_runs")


@pytest.fixture(scope="module")
def weights(short_runs, tmp_path_factory):
    """A file of the network with another head, and random statistics."""
    model = rn.create_model("cifar_resnet8", num_classes=7)
    variables = random_variables(model, channels=1)
    path = tmp_path_factory.mktemp("weights") / "start.safetensors"
    save_weights(path, variables)
    return path, by_name(variables)


@pytest.fixture(scope="module")
def frozen(weights, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("frozen") / "run"
    return workdir, rn.train(config_of(weights[0], ALL_BUT_THE_HEAD), workdir)


def without_head(arrays):
    return {
        name: x for name, x in arrays.items() if name.startswith(("params/", "batch_stats/")) and "/fc/" not in name
    }


def test_the_backbone_is_taken_and_the_head_is_new(weights):
    config = config_of(weights[0])
    begun = load_beginning(config, task_of(config))
    assert begun.new == ("params/fc/bias", "params/fc/kernel")
    expected = without_head(weights[1])
    assert begun.arrays.keys() == expected.keys()
    for name, array in begun.arrays.items():
        np.testing.assert_array_equal(array, expected[name])


def test_what_is_frozen_stays_and_is_in_no_checkpoint(weights, frozen):
    workdir, state = frozen
    expected, found = without_head(weights[1]), by_name(state.variables)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    records = sorted((workdir / "checkpoints").glob("*/record/metadata"))
    arrays = json.loads(records[-1].read_text())["arrays"]
    assert sorted(name for name in arrays if name.startswith(("params", "batch_stats"))) == [
        "params/fc/bias",
        "params/fc/kernel",
    ]
    assert not [name for name in arrays if "conv" in name]
    memory = json.loads(records[-1].read_text())["memory"]
    assert memory["start"] == json.loads((workdir / "environment.json").read_text())[0]["start"]


def test_it_is_read_back_whole(frozen):
    workdir, state = frozen
    for which in ("last", "best"):
        read = rn.load_run(workdir, which).state
        jax.tree.map(np.testing.assert_array_equal, read.eval_variables, state.eval_variables)


def test_it_goes_on_from_where_it_was_stopped(weights, frozen, tmp_path, monkeypatch):
    asked = iter(range(1, 100))
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "asked", lambda self: next(asked) == 5)
        with pytest.raises(Preempted, match="after step 5"):
            rn.train(config_of(weights[0], ALL_BUT_THE_HEAD), tmp_path / "run")
    state = rn.train(config_of(weights[0], ALL_BUT_THE_HEAD), tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, state, frozen[1])


def test_other_weights_of_that_name_are_refused(weights, frozen, tmp_path):
    path = tmp_path / "moved.safetensors"
    shutil.copy(weights[0], path)
    config = config_of(path, ALL_BUT_THE_HEAD, "--checkpoint.every-epochs", "0.5")
    rn.train(config, tmp_path / "run")
    other = random_variables(rn.create_model("cifar_resnet8", num_classes=7), channels=1, seed=6)
    path.unlink()
    save_weights(path, other)
    with pytest.raises(CheckpointError, match=r"start.weights = .*not the same weights any more.*start anew"):
        rn.load_run(tmp_path / "run")


def test_a_run_is_a_start_and_all_of_it_is_trained(frozen, tmp_path):
    """Then checkpoints hold everything, and continuing needs the weights no more."""
    source = tmp_path / "source"
    shutil.copytree(frozen[0], source)
    config = config_of(source, (), checkpoint="last")
    begun = load_beginning(config, task_of(config))
    assert not begun.new
    jax.tree.map(np.testing.assert_array_equal, by_name(frozen[1].variables), dict(begun.arrays))
    state = rn.train(config, tmp_path / "run")
    shutil.rmtree(source)
    jax.tree.map(np.testing.assert_array_equal, rn.load_run(tmp_path / "run").state, state)


@pytest.mark.slow
def test_averages_begin_there_as_well(weights, tmp_path):
    config = config_of(weights[0], ALL_BUT_THE_HEAD, "--optim.ema-decay", "0.999")
    state = rn.train(config, tmp_path / "run")
    assert {name.split("/")[1] for name in by_name(state.ema)} == {"fc"}
    read = rn.load_run(tmp_path / "run").state
    jax.tree.map(np.testing.assert_array_equal, read.eval_variables, state.eval_variables)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda path: config_of(path, (), "--model.name", "cifar_resnet32"), WeightsError, "cifar_resnet8"),
        (lambda path: config_of("nosuch/file.pth"), WeightsError, "there is no file nosuch/file.pth"),
        (
            lambda path: config_of(path, (), "--data.channels", "3", "--data.mean", *"000", "--data.std", *"111"),
            ConfigError,
            r"1 arrays differ:\n  params/conv1/kernel: \(3, 3, 1, 16\) \(weights\) != \(3, 3, 3, 16\).*\nSet model",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_work(weights, make, error, message):
    config = make(weights[0])
    with pytest.raises(error, match=message):
        load_beginning(config, task_of(config))


def test_the_number_of_classes_comes_from_the_data(weights):
    config = rn.load_config(ROOT / "configs" / "digits.py", ["--model.num-classes", "None"])
    assert settled(config) == rn.load_config(ROOT / "configs" / "digits.py")
    assert settled(settled(config)) == settled(config)
    with pytest.raises(ConfigError, match="num_classes = None stands for.*set model.num_classes"):
        task_of(config)
