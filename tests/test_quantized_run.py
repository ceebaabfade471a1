"""A run that trains for integers: from a trained run, on any devices, to a folder that `quantize` writes."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax import cli
from resnet_jax.compress.quantize import quantize
from resnet_jax.compress.quantize.trained import apart
from resnet_jax.config import Qat, QuantizeConfig
from resnet_jax.data import load_source, normalize
from resnet_jax.errors import ConfigError, DataError, Preempted
from resnet_jax.models import create_model
from resnet_jax.run.grids import calibrated
from resnet_jax.run.start import load_beginning
from resnet_jax.runtime.mesh import make_mesh, put_batch, split_batch
from resnet_jax.survival.signals import StopRequest
from resnet_jax.tasks.assemble import assemble, init_state_of
from resnet_jax.tasks.table import task_of
from resnet_jax.weights import save_weights

from .weights.networks import calm, random_variables

pytestmark = pytest.mark.usefixtures("short_runs", "compile_quickly")

ROOT = Path(__file__).parent.parent
DIGITS = tuple("0123456789")
SMALL = ("--epochs", "1", "--batch-size", "128", "--model.name", "cifar_resnet8")
CALM = ("--optim.base-lr", "0.01", "--optim.warmup-epochs", "0")


def config_of(start="", *arguments, **qat):
    config = rn.load_config(ROOT / "configs" / "digits.py", [*SMALL, *(CALM if start else ()), *arguments])
    return replace(config, start=rn.Start(weights=str(start)), quantize=Qat(**qat))


@pytest.fixture(scope="module")
def start(short_runs, tmp_path_factory):
    """A file of a network in floating point."""
    path = tmp_path_factory.mktemp("start") / "start.safetensors"
    write_start(path)
    return path


def write_start(path):
    model = create_model("cifar_resnet8", num_classes=10)
    save_weights(path, calm(random_variables(model, channels=1, image=(8, 8))))


@pytest.fixture(scope="module")
def trained(short_runs, tmp_path_factory):
    """A run whose start is gone."""
    path = tmp_path_factory.mktemp("gone") / "start.safetensors"
    write_start(path)
    config = config_of(path, images=64, steps="learned", weight_bits=6)
    workdir = tmp_path_factory.mktemp("trained") / "run"
    state = rn.train(config, workdir)
    path.unlink()
    return config, workdir, state


def images_of(config):
    source = load_source(config.data, "test")
    return np.stack([source[i]["image"].reshape(8, 8, 1) for i in range(len(source))])


def test_it_is_read_and_evaluated_without_its_start(trained):
    config, workdir, state = trained
    run = rn.load_run(workdir)
    jax.tree.map(np.testing.assert_array_equal, run.state, state)
    report = rn.evaluate(config, state)
    assert rn.evaluate(run.config, run.state) == report
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["top1"] for line in lines if line["kind"] == "eval"] == [report["top1"]]
    assert not any("bn" in name for name in state.params["layer1_0"])


@pytest.mark.slow
def test_what_is_evaluated_is_rounded(trained):
    """The prediction is that of integers, and not that of the network in floating point."""
    config, workdir, _ = trained
    run, images = rn.load_run(workdir), images_of(config)[:64]
    said = jax.jit(run.task.predict)(run.state.eval_variables, {"image": images})["probability"]
    done = quantize(run.model, run.state.eval_variables, list, QuantizeConfig(weight_bits=6))
    seen = normalize(images, config.data.preset)
    integers = jax.nn.softmax(jax.jit(done.model.apply)(done.variables, seen))
    own, plain = apart(run.state.eval_variables)[0], run.model.network
    exact = jax.nn.softmax(jax.jit(partial(plain.apply, train=False))(own, seen))
    # Sums are rounded in float32, so a few integers are the next ones.
    assert np.quantile(np.abs(said - integers), 0.99) < 0.2 * np.quantile(np.abs(said - exact), 0.99)
    assert np.mean(said.argmax(1) == integers.argmax(1)) > 0.9  # the network knows little, so classes are close


def test_the_command_quantize_takes_it_as_it_is(trained, tmp_path, capsys):
    config, workdir, state = trained
    with pytest.raises(SystemExit, match=r"weight_bits = 8 \(trained with 6\); give the values of its config"):
        cli.main(["quantize", str(workdir), "--out", str(tmp_path / "no")])
    cli.main(["quantize", str(workdir), "--weight-bits", "6", "--out", str(tmp_path / "six")])
    numbers = json.loads((tmp_path / "six" / "quantize.json").read_text())
    assert abs(numbers["int6"]["top1"] - rn.evaluate(config, state)["top1"]) < 0.02
    capsys.readouterr()


def test_steps_are_learned_and_zero_points_are_not(trained, start):
    config, _, state = trained
    first = beginning_of(replace(config, start=rn.Start(weights=str(start))))
    before, after = (apart(jax.device_get(one.variables))[1] for one in (first, state))
    moved = jax.tree_util.tree_map_with_path(lambda path, a, b: (path[-1].key, bool(np.any(a != b))), before, after)
    found = jax.tree.leaves(moved, is_leaf=lambda leaf: isinstance(leaf, tuple))
    assert {name for name, changed in found if changed} == {"scale"}
    assert sum(changed for _, changed in found) > 15


def beginning_of(config, devices=1):
    task, mesh = task_of(config), make_mesh(jax.devices()[:devices])
    begun = load_beginning(config, task, DIGITS)
    state = init_state_of(config, task, mesh)(jax.random.key(0))
    return calibrated(begun, config, state).begin(state)


@pytest.mark.parametrize("command", [["evaluate", "--fold"], ["export", "--format", "stablehlo", "--out", "nowhere"]])
def test_other_forms_of_it_are_refused(command, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"error: the network was trained for integers.*export it with --int8"):
        cli.main([command[0], str(trained[1]), *command[1:]])


def test_its_integers_are_exported(trained, tmp_path, capsys):
    """ONNX gives the classes that the run predicts, except for sums that are rounded elsewhere."""
    onnxruntime = pytest.importorskip("onnxruntime")
    config, workdir, _ = trained
    cli.main(["export", str(workdir), "--format", "onnx", "--int8", "--out", str(tmp_path / "onnx")])
    assert "integers: 8 kernels" in capsys.readouterr().out
    run = rn.load_run(workdir)
    done = quantize(run.model, run.state.eval_variables, list, QuantizeConfig(weight_bits=6))
    seen = np.asarray(normalize(images_of(config)[:64], config.data.preset))
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    (logits,) = session.run(["logits"], {"images": seen.transpose(0, 3, 1, 2).copy()})
    ours = jax.jit(done.model.apply)(done.variables, seen)
    assert np.mean(logits.argmax(1) == ours.argmax(1)) > 0.9


@pytest.mark.slow
def test_any_number_of_devices_and_parts(start):
    """Numbers near the middle between two integers may become either, since sums are rounded: a few steps differ."""
    config = config_of(start, "--batch-size", "32", "--model.bn-group-size", "8", images=64, steps="learned")
    rng = np.random.default_rng(0)
    batch = {"image": rng.integers(0, 256, (32, 8, 8, 1), np.uint8), "label": rng.integers(0, 10, 32).astype(np.int32)}

    def update(devices, parts):
        changed, mesh = replace(config, accumulate=parts), make_mesh(jax.devices()[:devices])
        training = assemble(changed, task_of(changed), mesh, num_images=64)
        state, metrics = training.train_step(beginning_of(changed, devices), put_batch(batch, split_batch(mesh)))
        return jax.device_get((state.params, metrics["loss"]))

    whole = update(1, 1)
    for devices, parts in [(2, 1), (4, 1), (1, 2), (2, 2)]:
        params, loss = update(devices, parts)
        np.testing.assert_allclose(loss, whole[1], rtol=1e-3)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4 * max(1, np.abs(b).max())), params, whole[0]
        )


@pytest.mark.slow
def test_it_goes_on_from_where_it_was_stopped(trained, tmp_path, monkeypatch):
    """The start is not read again, and nothing is calibrated again."""
    config, _, whole = trained
    write_start(config.start.weights)
    asked = iter(range(1, 100))
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "asked", lambda self: next(asked) == 5)
        with pytest.raises(Preempted, match="after step 5"):
            rn.train(config, tmp_path / "run")
    Path(config.start.weights).unlink()
    jax.tree.map(np.testing.assert_array_equal, rn.train(config, tmp_path / "run"), whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": rn.Start()}, "start.weights = '': it begins with a trained network; name a run or weights"),
        ({"model": rn.ModelConfig(dtype="bfloat16")}, "model.dtype = 'bfloat16': its numbers need float32"),
        ({"model": rn.ModelConfig(remat=(1,))}, r"model.remat = \(1,\): each number is rounded once; leave it out"),
        ({"task": rn.Segment()}, "task = Segment: it is for networks for classification alone"),
    ],
)
def test_what_does_not_go_together_is_refused(change, message):
    with pytest.raises(ConfigError, match=f"quantize.images = 64 quantises in training, and {message}"):
        rn.Config(**{"start": rn.Start(weights="somewhere"), "quantize": Qat(images=64), **change})


@pytest.mark.slow
def test_bad_calibration_is_refused(start, tmp_path):
    with pytest.raises(DataError, match="calibration saw 8 images, and needs at least 16"):
        rn.train(config_of(start, images=8), tmp_path / "few")
    with pytest.raises(ConfigError, match="unknown layer to keep in floating point 'layer9_0'"):
        rn.train(config_of(start, images=64, keep_float=("layer9_0",)), tmp_path / "kept")
    with pytest.raises(ConfigError, match="quantize.bias_correction = True: training moves the biases itself"):
        Qat(images=64, bias_correction=True)
