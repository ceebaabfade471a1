"""A run that starts from weights: what is taken and made new, and what its checkpoints hold of what is frozen."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax.errors import CheckpointError, ConfigError, Preempted, WeightsError
from resnet_jax.models import variable_shapes
from resnet_jax.run.start import load_beginning
from resnet_jax.survival.digests import by_name
from resnet_jax.survival.signals import StopRequest
from resnet_jax.tasks.table import settled, task_of
from resnet_jax.weights import WEIGHT_SETS, save_weights

from .weights.networks import random_variables

ROOT = Path(__file__).parent.parent
ALL_BUT_THE_HEAD = (rn.Group(pattern="^(?!fc/)", rate=0.0),)
DEPTH = "start.weights = .* for model.name = 'cifar_resnet32': .*this file looks like cifar_resnet8"
DIGITS = tuple("0123456789")
RGB = ("--data.channels", "3", "--data.mean", *"000", "--data.std", *"111")
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
    begun = load_beginning(config, task_of(config), DIGITS)
    assert begun.remarks == ("params/fc/bias, params/fc/kernel do not fit, and are made new",)
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


@pytest.mark.slow
def test_a_run_is_a_start_and_all_of_it_is_trained(frozen, tmp_path):
    """Then checkpoints hold everything, and continuing needs the weights no more."""
    source = tmp_path / "source"
    shutil.copytree(frozen[0], source)
    config = config_of(source, (), checkpoint="last")
    begun = load_beginning(config, task_of(config), DIGITS)
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
        (lambda path: config_of(path, (), "--model.name", "cifar_resnet32"), WeightsError, DEPTH),
        (lambda path: config_of("nosuch/file.pth"), WeightsError, "there is no file nosuch/file.pth"),
        (
            lambda path: config_of(path, (), *RGB),
            WeightsError,
            r"for images of 1 channels, and 3 are asked for; only one for 3 .* \(data.channels\) to 1, or take",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_work(weights, make, error, message):
    config = make(weights[0])
    with pytest.raises(error, match=message):
        load_beginning(config, task_of(config), DIGITS)


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    """A file of the network for RGB images and as many classes as there are digits."""
    path = tmp_path_factory.mktemp("coloured") / "start.safetensors"
    save_weights(path, any_variables("cifar_resnet8", 10, 3))
    return path


def test_the_first_convolution_is_made_for_other_channels(coloured, tmp_path, monkeypatch):
    """The digits are grey. Nothing else is touched; a run that goes on finds the same again."""
    _, variables = rn.load_pretrained("cifar_resnet8", coloured)
    kernel = np.asarray(variables["params"]["conv1"]["kernel"])
    config = config_of(coloured, ALL_BUT_THE_HEAD, head="new")
    said = []
    monkeypatch.setattr("rich.console.Console.print", lambda self, *text, **how: said.append(" ".join(map(str, text))))
    rn.train(config, tmp_path / "run")
    first, second = (line for line in said if line.startswith("start.weights: "))
    assert "params/conv1/kernel is made from that of 3 channels for 1, as timm does (their sum)" in first
    assert "params/fc/bias, params/fc/kernel are made new, as start.head = 'new' says" in second
    found = by_name(rn.load_run(tmp_path / "run").state.variables)
    np.testing.assert_array_equal(found["params/conv1/kernel"], kernel.sum(axis=2, keepdims=True))
    expected = by_name(variables)
    for name in ("params/layer1_0/conv1/kernel", "batch_stats/layer3_0/bn2/var"):
        np.testing.assert_array_equal(found[name], expected[name])


def test_a_task_may_have_images_of_four_channels(coloured):
    config = config_of(coloured)
    task = task_of(config)
    init = lambda key: rn.init(rn.create_model("cifar_resnet8", num_classes=10), key, channels=4)
    begun = load_beginning(config, replace(task, init=init), DIGITS)
    kernel = rn.load_pretrained("cifar_resnet8", coloured, channels=4)[1]["params"]["conv1"]["kernel"]
    assert kernel.shape == (3, 3, 4, 16)
    np.testing.assert_array_equal(begun.arrays["params/conv1/kernel"], kernel)
    assert "is made from that of 3 channels for 4, as timm does (repeated, times 3/4)" in begun.remarks[0]


def any_variables(name, classes, channels):
    """Random numbers, without compiling anything."""
    rng = np.random.default_rng(0)
    shapes = variable_shapes(rn.create_model(name, num_classes=classes), channels=channels)
    draw = lambda low, high: lambda x: rng.uniform(low, high, x.shape).astype(np.float32)
    params, statistics = (
        jax.tree.map(draw(-0.1, 0.1), shapes["params"]),
        jax.tree.map(draw(0.5, 1), shapes["batch_stats"]),
    )
    return {"params": params, "batch_stats": statistics}


HEAD = ("params/fc/bias", "params/fc/kernel")
SYNSETS = [f"n{number:08}" for number in range(1000)]


@pytest.mark.parametrize(
    ("file", "names", "head", "new", "remark"),
    [
        ("start", DIGITS, "same_classes", (), "are kept: they fit, and nothing names the classes of the weights.*new$"),
        ("start", DIGITS, "fitting", (), None),
        ("start", DIGITS, "new", HEAD, "are made new, as start.head = 'new' says"),
        ("published", rn.class_names(), "same_classes", (), None),
        ("published", SYNSETS, "same_classes", (), None),
        (
            "published",
            SYNSETS[::-1],
            "same_classes",
            HEAD,
            r"are made new, since their classes \(tench, goldfish, great white shark and 997 more\) are not those of "
            r"the data set \(n00000999, .* and 997 more\). --start.head fitting keeps them",
        ),
        ("published", SYNSETS[::-1], "fitting", (), None),
    ],
)
def test_a_head_for_other_classes_is_made_new(file, names, head, new, remark, tmp_path, monkeypatch):
    """A file says nothing of its classes; a published one is known by its name."""
    known = replace(WEIGHT_SETS[0], file="published.safetensors")
    monkeypatch.setattr("resnet_jax.run.start.WEIGHT_SETS", [known])
    path = tmp_path / f"{file}.safetensors"
    save_weights(path, any_variables("cifar_resnet8", len(names), 1))
    config = config_of(path, (), "--model.num-classes", str(len(names)), head=head)
    begun = load_beginning(config, task_of(config), names)
    assert begun.new == new
    assert bool(begun.remarks) == bool(remark)
    if remark:
        assert re.match("params/fc/bias, params/fc/kernel " + remark, begun.remarks[0])


def test_a_runs_head_is_for_the_runs_classes(frozen, weights, tmp_path):
    """With names of its own a run's head is made new for others, and stays for the same; numbers say nothing."""
    source = tmp_path / "source"
    shutil.copytree(frozen[0], source)
    config = config_of(source)
    task = task_of(config)
    assert "nothing names the classes" in load_beginning(config, task, DIGITS).remarks[0]
    letters = tuple("abcdefghij")
    (source / "class_names.json").write_text(json.dumps(letters))
    assert load_beginning(config, task, letters).remarks == ()
    begun = load_beginning(config, task, DIGITS)
    assert begun.new == HEAD
    assert "(a, b, c and 7 more) are not those of the data set (0, 1, 2 and 7 more)" in begun.remarks[0]


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        (
            "best",
            "source/checkpoints holds no checkpoint; train first, or name the workdir of a run that has saved one$",
        ),
        ("last", "source holds no checkpoint yet; continue its training"),
    ],
)
def test_a_run_without_a_checkpoint_is_no_start(checkpoint, message, frozen, tmp_path):
    shutil.copytree(frozen[0], tmp_path / "source", ignore=shutil.ignore_patterns("checkpoints"))
    config = config_of(tmp_path / "source", checkpoint=checkpoint)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_beginning(config, task_of(config), DIGITS)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_weights_of_another_depth_are_named(tmp_path):
    """The fast test has a file of a CIFAR network."""
    save_weights(tmp_path / "deep.safetensors", any_variables("resnet101", 10, 3))
    config = config_of(tmp_path / "deep.safetensors", (), "--model.name", "resnet50", *RGB)
    with pytest.raises(
        WeightsError, match="start.weights = .*deep.* for model.name = 'resnet50'.*looks like resnet101"
    ):
        load_beginning(config, task_of(config), DIGITS)


def test_a_run_of_another_depth_is_named(frozen):
    config = config_of(frozen[0], (), "--model.name", "cifar_resnet32")
    with pytest.raises(
        ConfigError, match="of cifar_resnet8, does not fit cifar_resnet32; .*\n.*\n(.*\n)*Set model.name"
    ):
        load_beginning(config, task_of(config), DIGITS)


def test_the_number_of_classes_comes_from_the_data(weights):
    config = rn.load_config(ROOT / "configs" / "digits.py", ["--model.num-classes", "None"])
    assert settled(config) == rn.load_config(ROOT / "configs" / "digits.py")
    assert settled(settled(config)) == settled(config)
    with pytest.raises(ConfigError, match="num_classes = None stands for.*set model.num_classes"):
        task_of(config)


@pytest.mark.parametrize("how", ["centred", "repeated"])
def test_a_network_for_clips_starts_from_weights_of_images(weights, how):
    config = config_of(weights[0], (), "--model.time", "3d", inflate=how)
    found = load_beginning(config, task_of(config), DIGITS)
    kernel, still = found.arrays["params/layer1_0/conv1/kernel"], weights[1]["params/layer1_0/conv1/kernel"]
    np.testing.assert_allclose(kernel[1], still if how == "centred" else still / 3, rtol=1e-6)
    np.testing.assert_array_equal(kernel[0], np.zeros_like(still) if how == "centred" else kernel[1])
    assert found.new == ("params/fc/bias", "params/fc/kernel")


def test_what_cannot_start_from_weights_of_images(weights):
    for time, message in (
        ("2+1d", "start.inflate = 'centred': time = '2\\+1d' has norms and convolutions in time .*choose time='3d'"),
        ("None", "start.inflate = 'centred': inflate makes the weights of a network for clips, and ResNet with time"),
    ):
        config = config_of(weights[0], (), "--model.time", time, inflate="centred")
        with pytest.raises(ConfigError, match=message):
            load_beginning(config, task_of(config), DIGITS)
    config = config_of(weights[0], (), "--model.time", "3d")
    with pytest.raises(WeightsError, match=r"of wrong shape \(file != network\)"):
        load_beginning(config, task_of(config), DIGITS)
