"""The studies that ship: each has cells at each scale, each cell can be trained, and own blocks are the papers'."""

import math
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import jax
import numpy as np
import pytest

from resnet_jax import Study
from resnet_jax.cli import main
from resnet_jax.config import AugmentConfig
from resnet_jax.config_files import defined_in
from resnet_jax.cost.count import count_macs
from resnet_jax.models import init
from resnet_jax.runtime.mesh import make_mesh
from resnet_jax.studies.cells import cells_of, scaled
from resnet_jax.studies.results import Outcome, Results, Row
from resnet_jax.tasks.assemble import assemble, build_model

from ..weights.networks import random_variables

ROOT = Path(__file__).parents[2]
# The cells of this one begin from weights, and its data set must be there.
FILES = [path for path in sorted((ROOT / "studies").glob("*.py")) if path.stem != "transfer_ladder"]
SCALES = [(path.stem, scale) for path in FILES for scale in (None, *defined_in(str(path), "study", Study).scales)]


@cache
def study(name):
    return defined_in(str(ROOT / "studies" / f"{name}.py"), "study", Study)


def cells(name, scale=None, options=()):
    return cells_of(scaled(study(name), scale), options)


def file_of(name):
    """The study file as a module."""
    spec = spec_from_file_location(name, ROOT / "studies" / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "scale"), SCALES)
def test_each_study_has_cells_that_its_sentences_speak_of(name, scale):
    found = cells(name, scale)
    names = {cell.name for cell in found}
    assert len(names) == len(found) > 1
    one = scaled(study(name), scale)
    assert one.compare
    if scale is not None:
        assert set(one.paper) <= names
        whole = [said.of for said in one.compare if hasattr(said, "of")]
        assert set(whole) <= names
        assert {cell.config.data.train_split for cell in found} == {"train"} or scale != "paper"


def test_every_file_says_how_it_is_run():
    for path in FILES:
        text = path.read_text()
        assert f"study studies/{path.name}" in text, path
        if "paper" in study(path.stem).scales:
            assert "not run here" in text or "not been run here" in text, path


def traced(cell):
    """Traces the step of a cell with the gradients, and nothing is computed."""
    training = assemble(cell.config, cell.task(), make_mesh(jax.devices()[:1]), num_images=4000)
    state = training.init_state.eval_shape(jax.random.key(0))
    new, metrics = jax.eval_shape(training.train_step, state, training.batch)
    assert jax.tree.map(lambda x: x.shape, new.params) == jax.tree.map(lambda x: x.shape, state.params)
    assert metrics["loss"].shape == ()


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("shortcuts_2016", "dropout/20"),
        ("batch_size", "lamb/1024"),
        ("augmentation", "trivial_augment"),
        ("normalisation", "group"),
    ],
)
def test_cells_can_be_traced(name, cell):
    traced(next(one for one in cells(name) if one.name == cell))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "scale"), SCALES)
def test_every_cell_can_be_traced(name, scale):
    for cell in cells(name, scale):
        traced(cell)


def test_bottlenecks_cost_what_basic_blocks_cost():
    """At equal blocks in each stage, but for the projections of the first block of each stage."""
    found = {cell.name: build_model(cell.config) for cell in cells("bottleneck")}
    basic, bottleneck = (count_macs(found[name], image_size=28, channels=1) for name in ("basic/9", "bottleneck/9"))
    assert bottleneck == pytest.approx(basic, rel=0.16)


def test_the_cost_of_depth_is_what_the_names_say():
    found = {cell.name: build_model(cell.config) for cell in cells("depth_cost")}
    blocks = {name: sum(model.stage_sizes) for name, model in found.items()}
    assert blocks == {"18": 8, "34": 16, "50": 16, "101": 33, "152": 50}
    assert [model.block for model in found.values()] == ["basic"] * 2 + ["bottleneck"] * 3


def test_the_picture_of_costs_has_a_point_for_each_complete_run():
    from matplotlib.figure import Figure

    one, rows = study("depth_cost"), []
    for place, cell in enumerate(cells("depth_cost")):
        outcomes = [Outcome(0, place < 4, "", {"error": 0.2 / (place + 1), "seconds": 10.0 + place})] * (1 + place)
        rows.append(Row(cell, tuple(outcomes), 10_000 * (1 + place), 2_000_000 * (1 + place)))
    figure = Figure(layout="constrained")
    one.pictures["accuracy_by_cost"](figure, Results(one, tuple(rows), {}, ("error",)))
    assert [len(axes.collections) for axes in figure.axes] == [10, 10, 10]
    assert [text.get_text() for text in figure.axes[0].texts] == ["18", "34", "50", "101"]


def test_each_augmentation_is_the_only_one():
    plain = AugmentConfig(random_resized_crop=False, flip=False, shift_pixels=0)
    for scale in (None, "paper"):
        first, *others = cells("augmentation", scale)
        assert (first.name, first.config.data.augment, first.config.task.label_smoothing) == ("none", plain, 0.0)
        for cell in others:
            own, base = vars(cell.config.data.augment), vars(plain)
            changed = {name for name in own if own[name] != base[name]} - {"crop_min_area"}
            assert len(changed) + (cell.config.task.label_smoothing > 0) == 1, cell.name


def test_the_rate_of_unscaled_batches_is_that_of_the_smallest():
    rates = {cell.name: cell.config.optim.base_lr * cell.config.batch_size / 256 for cell in cells("batch_size")}
    for size in (128, 512, 1024):
        assert rates[f"sgd/{size}_unscaled"] == pytest.approx(rates["sgd/32"])
        assert rates[f"sgd/{size}"] == pytest.approx(size / 32 * rates["sgd/32"])


# The blocks of the papers, written for torch from their figures: `branch(x)` uses the parameters under the names here.


def torch_network(name, state, stages, shortcut_of):
    """A network with shortcuts of option A in the form of He et al. 2016, as a function of images (N, C, H, W)."""
    import torch
    from torch.nn import functional as f

    def conv(x, key, stride=1, padding=None):
        weight, bias = state[f"{key}.weight"], state.get(f"{key}.bias")
        return f.conv2d(x, weight, bias, stride, weight.shape[-1] // 2 if padding is None else padding)

    def norm(x, key):
        statistics = (state[f"{key}.running_mean"], state[f"{key}.running_var"])
        return f.batch_norm(x, *statistics, state[f"{key}.weight"], state[f"{key}.bias"], training=False)

    def bring(x, channels, stride):
        x = x[:, :, ::stride, ::stride]
        return f.pad(x, (0, 0, 0, 0, 0, channels - x.shape[1]))

    def run(images):
        x = conv(images, "conv1")
        x = x if name == "full_preactivation" else f.relu(norm(x, "bn1"))
        for stage, blocks in enumerate(stages, start=1):
            for block in range(blocks):
                key, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
                x = unit(x, key, stride)
        if name == "full_preactivation":
            x = f.relu(norm(x, "norm"))
        x = f.relu(x) if name == "relu_alone" else x
        return x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]

    def unit(x, key, stride):
        channels = state[f"{key}.conv1.weight"].shape[0]
        first, second = lambda z: conv(z, f"{key}.conv1", stride), lambda z: conv(z, f"{key}.conv2")
        one, two = lambda z: norm(z, f"{key}.bn1"), lambda z: norm(z, f"{key}.bn2")
        same = stride == 1 and x.shape[1] == channels
        if name == "norm_after_sum":
            return f.relu(two(bring(x, channels, stride) + second(f.relu(one(first(x))))))
        if name == "relu_before_sum":
            return bring(x, channels, stride) + f.relu(two(second(f.relu(one(first(x))))))
        if name == "relu_alone":
            z = f.relu(x)
            return bring(x if same else z, channels, stride) + two(second(f.relu(one(first(z)))))
        if name == "full_preactivation":
            z = f.relu(one(x))
            return bring(x if same else z, channels, stride) + second(f.relu(two(first(z))))
        branch = two(second(f.relu(one(first(x)))))
        return f.relu(shortcut_of(torch, conv, key, branch, bring(x, channels, stride)))

    return run


def add(torch, conv, key, branch, shortcut):
    return branch + shortcut


def half(torch, conv, key, branch, shortcut):
    return branch + shortcut / 2


def half_both(torch, conv, key, branch, shortcut):
    return (branch + shortcut) / 2


def exclusive(torch, conv, key, branch, shortcut):
    gate = torch.sigmoid(conv(shortcut, f"{key}.gate"))
    return gate * branch + (1 - gate) * shortcut


def of_shortcut(torch, conv, key, branch, shortcut):
    return branch + (1 - torch.sigmoid(conv(shortcut, f"{key}.gate"))) * shortcut


SUMS = {
    "identity": add,
    "half": half,
    "half_both": half_both,
    "exclusive_gate_-6": exclusive,
    "exclusive_gate_-7": exclusive,
    "shortcut_gate_0": of_shortcut,
    "shortcut_gate_-6": of_shortcut,
    "dropout": add,
}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        *(("orders_2016", part) for part in ("original", "norm_after_sum", "relu_before_sum", "relu_alone")),
        ("orders_2016", "full_preactivation"),
        *(("shortcuts_2016", part) for part in SUMS),
    ],
)
def test_blocks_of_a_study_compute_what_the_papers_figure_shows(compile_quickly, name, part):
    torch = pytest.importorskip("torch")
    cell = next(one for one in cells(name) if one.name == f"{part}/20")
    model = cell.network.clone(stage_sizes=(2, 1), width=4, width_multiplier=1.0, dtype=None, param_dtype="float64")
    with jax.enable_x64(True):
        variables = jax.tree.map(lambda x: np.asarray(x, np.float64), random_variables(model, 3, (13, 10)))
        images = np.random.default_rng(0).normal(size=(2, 13, 10, 3))
        ours = np.asarray(jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images))
    state = {key.replace("_", ".", 1) if key.startswith("layer") else key: value for key, value in flat(variables)}
    theirs = torch_network(part, {k: torch.from_numpy(v) for k, v in state.items()}, (2, 1), SUMS.get(part, add))
    expected = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def flat(variables):
    """torch's names and layouts of the numbers of a network, whatever its blocks are."""
    names = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    for tree in variables.values():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            *parents, last = [key.key for key in path]
            array = leaf.transpose(3, 2, 0, 1) if leaf.ndim == 4 else leaf.T if leaf.ndim == 2 else leaf
            yield ".".join((*parents, names[last])), np.ascontiguousarray(array)


def test_gates_begin_with_the_papers_bias(compile_quickly):
    networks = {cell.values["shortcut"]: cell.network for cell in cells("shortcuts_2016")}
    biases = {"exclusive_gate_-6": -6, "exclusive_gate_-7": -7, "shortcut_gate_0": 0, "shortcut_gate_-6": -6}
    assert {name: networks[name].block.bias for name in biases} == biases
    model = networks["exclusive_gate_-7"].clone(stage_sizes=(1,), width=8, width_multiplier=1.0)
    gate = init(model, jax.random.key(0), channels=1, sides=(8, 8))["params"]["layer1_0"]["gate"]
    assert np.all(np.asarray(gate["bias"]) == -7)
    assert np.std(np.asarray(gate["kernel"])) > 0


def test_dropout_is_for_training_alone_and_belongs_to_places(compile_quickly):
    """Of about half of the numbers of the shortcut, and an image's draw does not depend on the rest of its batch."""
    file = file_of("shortcuts_2016")
    cell = next(one for one in cells("shortcuts_2016") if one.name == "dropout/20")
    model = cell.network.clone(stage_sizes=(1,), width=8, width_multiplier=1.0, dtype=None)
    assert model.block.__name__ == file.DropoutShortcut.__name__
    images = np.ones((4, 9, 9, 1), np.float32)
    variables = random_variables(model, 1, (9, 9))
    look = lambda images, positions, train: model.apply(
        *(variables, images),
        train=train,
        use_batch_stats=False,
        update_stats=False,
        positions=positions,
        features=True,
        rngs={"dropout": jax.random.key(1)},
    )["stage1"]
    whole = look(images, np.arange(4), True)
    np.testing.assert_array_equal(whole[2:], look(images[2:], np.arange(2, 4), True))
    still = look(images, np.arange(4), False)
    np.testing.assert_array_equal(still[0], still[3])
    assert np.any(np.asarray(whole[0] != whole[3]))
    assert not math.isclose(float(np.mean(whole)), float(np.mean(still)), rel_tol=1e-6)


@pytest.mark.slow
def test_a_study_with_blocks_of_its_own_is_run(tmp_path, compile_quickly, monkeypatch):
    """From the command to the table, with checkpoints and evaluation, and nothing of it in the package."""
    monkeypatch.setattr("resnet_jax.run.result.plot_curves", lambda *_: None)
    options = ["--data.name", "digits", "--data.image-size", "8", "--data.eval-resize", "8", "--epochs", "1"]
    options += ["--data.train-split", "train[:128]", "--data.eval-split", "test[:100]", "--eval-batch-size", "100"]
    only = ["--only", "dropout/20", "exclusive_gate_-6/20", "--seeds", "0"]
    main(["study", str(ROOT / "studies" / "shortcuts_2016.py"), "--workdir", str(tmp_path / "out"), *only, *options])
    table = (tmp_path / "out" / "table.csv").read_text().splitlines()
    assert {line.split(",")[0] for line in table[1:]} >= {"dropout/20", "exclusive_gate_-6/20"}
