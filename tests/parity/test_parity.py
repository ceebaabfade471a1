"""The parity tool passes where the two sides agree, and points at the layer where they do not."""

import contextlib
import json
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from resnet_jax.cli import main
from resnet_jax.errors import ConfigError
from resnet_jax.models import create_model, norms, resnet
from resnet_jax.parity import (
    OPTIMIZERS,
    TOLERANCES,
    compare_arrays,
    compare_networks,
    make_reference,
    names_of,
    randomize,
    tolerances_for,
)
from resnet_jax.parity.problem import CLASSIFY
from resnet_jax.parity.settings import setting_of
from resnet_jax.parity.torch_training import train as train_torch
from resnet_jax.weights import from_torchvision
from resnet_jax.weights.names import torch_key

torch = pytest.importorskip("torch")


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def make_pair(torchvision, block="bottleneck", **options):
    """Four blocks of one of torchvision's kinds on both sides, in float64, and noise of odd sizes."""
    kind = torchvision.models.resnet.Bottleneck if block == "bottleneck" else torchvision.models.resnet.BasicBlock
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    module = torchvision.models.ResNet(kind, [1, 1, 1, 1], num_classes=6).double()
    randomize(module, torch.from_numpy(rng.normal(size=(4, 3, 65, 65))))
    state_dict = {key: value.numpy() for key, value in module.state_dict().items()}
    options = {"stage_sizes": (1, 1, 1, 1), "num_classes": 6, "param_dtype": jnp.float64, **options}
    model = create_model("resnet50" if block == "bottleneck" else "resnet18", **options)
    return model, from_torchvision(state_dict, model), module


def compare(pair, checks=("forward",), size=65, steps=3, **options):
    rng = np.random.default_rng(1)
    draw = lambda size: rng.normal(size=(4, size, size, 3))
    batches = [draw(33) for _ in range(steps)]
    tolerances = tolerances_for("float64")
    return compare_networks(
        *pair, images=[draw(size)], train_images=batches, checks=checks, tolerances=tolerances, **options
    )


@pytest.fixture
def pair(torchvision, float64):
    return make_pair(torchvision)


# Agreement


def test_float64_forward_gradients_and_statistics(pair):
    report = compare(pair, ("forward", "gradients", "statistics"))
    assert report.passed, report
    assert report.difference is None
    forward, gradients, statistics = report.sections
    names = [row.name for row in forward.rows]
    assert {"conv1", "bn1", "relu", "maxpool", "layer2.0.conv2", "layer4.0.downsample.1", "avgpool", "fc"} <= {*names}
    assert [row.name for row in gradients.rows] == ["loss", *(name for name, _ in pair[2].named_parameters())]
    assert len(statistics.rows) == 2 * sum(isinstance(m, torch.nn.BatchNorm2d) for m in pair[2].modules())


@pytest.mark.parametrize(
    "optimizer",
    [name if name == "last block" else pytest.param(name, marks=pytest.mark.slow) for name in OPTIMIZERS],
)
def test_float64_trajectories(torchvision, float64, optimizer):
    report = compare(make_pair(torchvision, "basic"), ("trajectory",), steps=10, optimizers=[optimizer])
    assert report.passed, report
    (section,) = report.sections
    names = {row.name for row in section.rows}
    assert {*(f"loss {i}" for i in range(1, 11)), "conv1.weight", "layer4.0.bn2.running_var", "fc.bias"} < names
    assert section.title == f"10 steps of {'AdamW' if 'adamw' in optimizer else 'SGD'}, {optimizer}"


@pytest.mark.parametrize(("name", "trains"), [("probe", ("fc.",)), ("last block", ("fc.", "layer4.0."))])
def test_pytorch_trains_just_what_a_setting_says(torchvision, float64, name, trains):
    model, variables, module = make_pair(torchvision, "basic")
    before = {name: buffer.clone().numpy() for name, buffer in module.named_buffers()}
    rng = np.random.default_rng(1)
    batches = [(rng.normal(size=(4, 33, 33, 3)), rng.integers(0, 6, 4)) for _ in range(2)]
    paths = {torch_key(("params", *path)): "/".join(path) for path in flatten_dict(variables["params"])}
    trained = train_torch(module, batches, setting_of(name, model), paths, CLASSIFY.torch_loss)
    moved = {key for key, change in trained.moved.items() if change.any()}
    assert moved == {key for key, _ in module.named_parameters() if key.startswith(trains)}
    changed = {key for key, value in trained.statistics.items() if (value != before[key]).any()}
    assert changed == {key for key in trained.statistics if key.startswith(trains)}


def test_names_that_stand_for_several_settings():
    assert names_of(["all"]) == tuple(OPTIMIZERS)
    assert names_of(["probe", "fine-tuning"]) == ("probe", "last block", "two groups", "adamw", "adamw groups")
    with pytest.raises(ConfigError, match="unknown setting of the optimizer 'prob'. Did you mean 'probe'"):
        names_of(["prob"])


@pytest.mark.slow
def test_float32_forward_and_argmax(torchvision):
    model, variables, module = make_pair(torchvision, param_dtype=jnp.float32)
    rng = np.random.default_rng(0)
    draw = lambda: rng.normal(size=(16, 33, 33, 3)).astype(np.float32)
    report = compare_networks(
        model,
        variables,
        module.float(),
        images=[draw()],
        train_images=[draw()] * 3,
        argmax_images=[draw() for _ in range(16)],
        tolerances=tolerances_for("float32"),
        checks=("forward", "gradients", "statistics"),
    )
    assert report.passed, report
    assert report.sections[1].title == "argmax, 256 images of 33 px"


@pytest.mark.slow
def test_the_module_is_left_as_it_was(pair):
    before = {key: value.clone() for key, value in pair[2].state_dict().items()}
    compare(pair, ("gradients", "statistics", "trajectory"), steps=2)
    for key, value in pair[2].state_dict().items():
        assert torch.equal(value, before[key]), key


# Faults on purpose: the tool must fail, and name the layer


def test_same_padding_in_the_max_pool_is_located(pair, monkeypatch):
    monkeypatch.setattr(resnet, "max_pool", lambda x: nn.max_pool(x, (3, 3), (2, 2), "SAME"))
    report = compare(pair, size=64)  # of an odd map both paddings are the same
    assert not report.passed
    assert report.difference.startswith("first difference in maxpool: ")


def test_the_stride_in_the_wrong_convolution_is_located(torchvision, float64):
    report = compare(_with_stride_in_conv1(torchvision))
    assert not report.passed
    assert report.difference.startswith("first difference in layer2.0.conv1: ours puts out (4, 128, 9, 9), theirs")


def _with_stride_in_conv1(torchvision):
    _, variables, module = make_pair(torchvision)
    options = {"stage_sizes": (1, 1, 1, 1), "num_classes": 6, "param_dtype": jnp.float64}
    return create_model("resnet50_v1", **options), variables, module


def batch_norm_with(monkeypatch, **fields):
    monkeypatch.setitem(norms.NORMS, "batch", partial(norms.NORMS["batch"], **fields))


def test_a_wrong_epsilon_is_located(pair, monkeypatch):
    batch_norm_with(monkeypatch, epsilon=1e-3)
    report = compare(pair)
    assert not report.passed
    assert report.difference.startswith("first difference in bn1: ")


@pytest.mark.slow
def test_a_wrong_momentum_is_located(pair, monkeypatch):
    batch_norm_with(monkeypatch, momentum=0.1)
    report = compare(pair, ("forward", "gradients", "statistics"))
    assert [section.ok for section in report.sections] == [True, True, False]
    assert "running statistics after 3 passes: bn1.running_mean" in report.difference


@pytest.mark.slow
def test_a_biased_running_variance_is_located(pair, monkeypatch):
    real = norms.BatchNorm._move

    def biased(self, running, batch):
        count = batch_count(self, batch)
        real(self, running, batch * ((count - 1) / count) if running.name == "var" else batch)

    sizes = {}
    statistics = norms.BatchNorm._batch_statistics

    def remember(self, values, size, running_mean):
        sizes[self.path] = values.x[..., 0].size
        return statistics(self, values, size, running_mean)

    batch_count = lambda self, batch: sizes[self.path]
    monkeypatch.setattr(norms.BatchNorm, "_batch_statistics", remember)
    monkeypatch.setattr(norms.BatchNorm, "_move", biased)
    report = compare(pair, ("forward", "gradients", "statistics"))
    assert [section.ok for section in report.sections] == [True, True, False]
    assert "running statistics after 3 passes: bn1.running_var" in report.difference


def test_norms_of_frozen_parts_in_training_mode_are_noticed(torchvision, float64, monkeypatch):
    """The classic mistake of fine-tuning: their statistics would be those of the batch."""
    monkeypatch.setattr("resnet_jax.training.step.fixed_norms", lambda modules: contextlib.nullcontext())
    report = compare(make_pair(torchvision, "basic"), ("trajectory",), steps=2, optimizers=["probe"])
    assert not report.passed
    assert report.difference.startswith("first difference in 2 steps of SGD, probe: loss 1, relative error ")


def test_height_and_width_swapped_in_one_kernel_is_located(pair):
    model, variables, module = pair
    kernel = variables["params"]["layer3_0"]["conv2"]["kernel"]
    variables["params"]["layer3_0"]["conv2"]["kernel"] = kernel.transpose(1, 0, 2, 3)
    report = compare((model, variables, module))
    assert not report.passed
    assert report.difference.startswith("first difference in layer3.0.conv2: ")
    assert "its input agrees" in report.difference


def test_two_swapped_batch_norms_are_located(pair):
    model, variables, module = pair
    for collection in ("params", "batch_stats"):
        block = variables[collection]["layer3_0"]
        block["bn1"], block["bn2"] = block["bn2"], block["bn1"]
    report = compare((model, variables, module))
    assert not report.passed
    assert report.difference.startswith("first difference in layer3.0.bn1: ")


# The command


@pytest.mark.parametrize("broken", [False, True])
def test_the_command_writes_its_tables_and_its_verdict(torchvision, tmp_path, monkeypatch, capsys, broken):
    if broken:
        batch_norm_with(monkeypatch, epsilon=1e-3)
    out = tmp_path / "tables" / "parity.md"
    arguments = [
        "parity",
        "resnet18",
        "--image-sizes",
        "33",
        "--batch-size",
        "2",
        "--checks",
        "forward",
        "--out",
        str(out),
    ]
    if broken:
        with pytest.raises(SystemExit, match="^1$"):
            main(arguments)
    else:
        main(arguments)
    printed = capsys.readouterr().out
    assert f"## resnet18, float32: {'FAIL' if broken else 'PASS'}" in printed
    assert printed.rstrip().endswith("FAIL: resnet18, float32" if broken else "PASS: 1 comparison(s)")
    assert out.read_text().strip() in printed
    (content,) = json.loads(out.with_suffix(".json").read_text())
    assert content["passed"] is not broken
    assert {"conv1", "layer4.1.bn2", "fc"} <= {row["name"] for row in content["sections"][0]["rows"]}
    assert ("first difference in bn1" in printed) is broken


def test_an_unknown_network_names_the_near_ones(torchvision):
    from resnet_jax.errors import WeightsError

    with pytest.raises(WeightsError, match=r"unknown network of torchvision or timm 'resnet51'\. Did you mean"):
        make_reference("resnet51")


# Rows and tolerances


def test_not_a_number_and_other_shapes_never_pass():
    ones = np.ones((2, 3))
    assert compare_arrays("a", ones, ones, 0.0).ok
    assert not compare_arrays("a", ones * np.nan, ones, 1e9).ok
    assert not compare_arrays("a", ones, ones[:1], 1e9).ok
    assert not compare_arrays("a", ones, -ones, 1e9, min_cosine=0.5).ok


def test_errors_are_relative_to_the_largest_magnitude():
    row = compare_arrays("a", np.array([1.0, -4.5]), np.array([1.5, -4.0]), 0.2)
    assert (row.max_abs, row.relative) == (0.5, 0.125)
    np.testing.assert_allclose(row.cosine, (1.5 + 18) / np.sqrt((1 + 4.5**2) * (1.5**2 + 16)))


def test_tolerances_know_the_backend_and_its_precision(monkeypatch):
    assert tolerances_for("float32") is TOLERANCES["cpu float32"]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert tolerances_for("float64") is TOLERANCES["gpu float64"]
    assert tolerances_for("float32") is TOLERANCES["gpu float32 default"]
    with jax.default_matmul_precision("highest"):
        assert tolerances_for("float32") is TOLERANCES["gpu float32 highest"]
    assert tolerances_for("bfloat16") is TOLERANCES["bfloat16"]
