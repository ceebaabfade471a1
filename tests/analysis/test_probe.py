"""The protocol of the probe, and its commands from end to end."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy
from PIL import Image
from sklearn.linear_model import LogisticRegression

import resnet_jax as rn
from resnet_jax import cli
from resnet_jax.analysis import logistic
from resnet_jax.analysis import probe as module
from resnet_jax.analysis.picture import plot_probe
from resnet_jax.analysis.probe import Probe, StageProbe, cross_entropy, held_out, probe_features, untrained
from resnet_jax.analysis.store import open_features
from resnet_jax.config_files import save_config
from resnet_jax.errors import DataError
from resnet_jax.files import open_folder
from resnet_jax.models import create_model, variable_shapes
from resnet_jax.run import named
from resnet_jax.run.network import Network
from resnet_jax.run.predict import open_checkpoints
from resnet_jax.runtime.mesh import make_mesh
from resnet_jax.tasks.assemble import init_state_of
from resnet_jax.tasks.table import task_of

CONFIG = rn.Config(
    model=rn.ModelConfig(name="cifar_resnet20", num_classes=10, dtype="float32"),
    data=rn.DataConfig(
        name="digits",
        channels=1,
        image_size=8,
        eval_resize=8,
        augment=rn.AugmentConfig(random_resized_crop=False, flip=False),
        mean=(0.305,),
        std=(0.376,),
        threads=2,
    ),
    optim=rn.OptimConfig(warmup_epochs=0.0),
    epochs=1.0,
    batch_size=256,
    eval_batch_size=360,
)


def random_variables(like, seed=0):
    """Kernels that keep the variance, and random scales, biases and statistics."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        name, shape = jax.tree_util.keystr(path), leaf.shape
        if "kernel" in name:
            value = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1]))
        else:
            value = rng.uniform(0, 0.3, shape) + ("scale" in name or "var" in name)
        return np.asarray(value, leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, like)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with a network whose scales, biases and statistics are random. To train would take longer."""
    workdir = tmp_path_factory.mktemp("run") / "digits"
    workdir.mkdir()
    (workdir / "class_names.json").write_text(json.dumps(list("0123456789")))
    save_config(CONFIG, workdir)
    like = init_state_of(CONFIG, task_of(CONFIG), make_mesh()).eval_shape(jax.random.key(0))
    with open_checkpoints(CONFIG, open_folder(workdir), "top1") as checkpoints:
        state = jax.tree.map(lambda x, to: jax.device_put(x, to.sharding), random_variables(like), like)
        checkpoints.save(5, state.replace(step=jnp.int32(5)), {}, {"top1": 0.5})
    return workdir


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Eight virtual devices on few cores wait for each other; test_logistic.py shows that one gives the same."""
    monkeypatch.setattr(logistic, "make_mesh", lambda: make_mesh(jax.devices()[:1]))


def some(count=400, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, count)
    centres = np.random.default_rng(9).normal(size=(5, 40)) * 0.5
    return np.maximum(centres[labels] + rng.normal(size=(count, 40)), 0).astype(np.float32), labels


def test_a_part_of_each_class_is_held_out():
    labels = np.repeat([4, 0, 7, 9], [100, 10, 1, 2])
    held = held_out(labels, 0.2, seed=0)
    assert [int(held[labels == label].sum()) for label in (4, 0, 7, 9)] == [20, 2, 0, 0]
    assert held_out(labels, 0.2, seed=0).tolist() == held.tolist()
    assert held_out(labels, 0.2, seed=1).tolist() != held.tolist()
    assert held_out(np.array([3, 3, 1]), 0.2, seed=0).sum() == 1, "one at least"
    with pytest.raises(DataError, match="each of the 3 classes has one image, and none can be held out"):
        held_out(np.arange(3), 0.2, seed=0)


def test_the_penalty_is_chosen_without_the_test_set_and_the_fit_uses_all_of_the_training_set():
    features, labels = some()
    test, test_labels = some(200, seed=1)
    strengths = (1e-4, 1e-3, 1e-2, 0.1, 1.0)
    found = probe_features(features, labels, test, test_labels, strengths=strengths)
    wrong = probe_features(features, labels, test[::-1] * 3, (test_labels + 1) % 5, strengths=strengths)
    assert (found.c, found.chosen_with, found.train_accuracy) == (wrong.c, wrong.chosen_with, wrong.train_accuracy)
    assert found.accuracy != wrong.accuracy

    held = held_out(labels, 0.2, 0)
    variance = features.var(axis=0).mean()
    peers = [
        LogisticRegression(C=strength / variance, max_iter=5000).fit(features[~held], labels[~held])
        for strength in strengths
    ]
    scores = [peer.score(features[held], labels[held]) for peer in peers]
    assert found.chosen_with == pytest.approx(max(scores))
    assert len(set(scores)) > 2
    final = LogisticRegression(C=found.c, tol=1e-8, max_iter=5000).fit(features, labels)
    assert found.accuracy == pytest.approx(final.score(test, test_labels))
    assert found.loss == pytest.approx(-final.predict_log_proba(test)[range(200), test_labels].mean(), abs=1e-3)
    assert (found.features, found.end_of_grid) == (40, False)


def test_units_of_the_features_do_not_matter():
    features, labels = some()
    test, test_labels = some(200, seed=1)
    strengths = (1e-4, 1e-3, 1e-2, 0.1, 1.0)
    plain = probe_features(features, labels, test, test_labels, strengths=strengths)
    scaled = probe_features(features * 1e6, labels, test * 1e6, test_labels, strengths=strengths)
    assert scaled.accuracy == plain.accuracy
    assert scaled.c == pytest.approx(plain.c / 1e12, rel=1e-3)


def test_what_cannot_be_probed():
    features, labels = some(40)
    bad = features.copy()
    bad[7] = np.nan
    with pytest.raises(
        DataError, match="the test features of 1 of 40 images, the first of them image 7, are not finite"
    ):
        probe_features(features, labels, bad, labels)
    with pytest.raises(DataError, match="of 1 class are no task for a classifier"):
        probe_features(features, labels * 0, features, labels * 0)


def test_the_cross_entropy_of_labels_with_gaps():
    logits = np.random.default_rng(0).normal(size=(6, 3)) * 100
    labels = np.array([2, 9, 5, 5, 9, 2])
    right = -scipy.special.log_softmax(logits, axis=1)[range(6), [0, 2, 1, 1, 2, 0]].mean()
    assert cross_entropy(logits, np.array([2, 5, 9]), labels) == pytest.approx(right)
    assert cross_entropy(logits, np.array([2, 5, 9]), labels + (labels == 9)) == math.inf, "10 is no class"


def test_the_command_in_short(run, tmp_path, capsys):
    cli.main(["probe", str(run), "--stages", "pooled", "--no-random", "--out", str(tmp_path), "--batch-size", "360"])
    table = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("The picture is in")]
    assert max(map(len, table)) <= 80
    printed = json.loads((tmp_path / "probe.json").read_text())
    assert [one["stage"] for one in printed["stages"]] == ["pooled"]
    assert f"{100 * printed['stages'][0]['accuracy']:.1f}" in " ".join(table)
    assert 0.3 < printed["stages"][0]["accuracy"] <= 1
    assert (tmp_path / "probe.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_command_from_end_to_end(run, capsys, monkeypatch):
    drawn = []

    def quick(model, key, channels):  # to compile the real one takes longer than all else
        drawn.append(channels)
        return random_variables(variable_shapes(model, channels=1), 1)

    monkeypatch.setattr(module, "init", quick)
    command = ["probe", str(run), "--stages", "stage3", "pooled", "--batch-size", "360"]
    cli.main([*command, "--as-json"])
    printed = json.loads(capsys.readouterr().out)
    assert json.loads((run / "probe" / "probe.json").read_text()) == printed
    assert printed["title"] == "cifar_resnet20 after 5 steps"
    assert (printed["train_images"], printed["test_images"], printed["classes"]) == (1437, 360, 10)
    with Image.open(run / "probe" / "probe.png") as picture:
        assert picture.width >= 700

    kept = open_features(run / "probe" / "test")
    prepared = kept.of["preparation_of_images"]
    assert (prepared["crop"], prepared["mean"], prepared["std"]) == (8, [0.305], [0.376]), "as the run prepares images"
    assert drawn == [1]
    untrained = open_features(run / "probe" / "random_test")
    assert untrained.of["weights"] != kept.of["weights"]
    assert {**untrained.of, "weights": 0} == {**kept.of, "weights": 0}

    for which in ("stages", "random"):
        assert [one["stage"] for one in printed[which]] == ["stage3", "pooled"]
        last, pooled = ({**one, "stage": 0} for one in printed[which])
        assert last == pytest.approx(pooled, rel=0.02), "the mean over the last map is what the network pools"
        assert 0.3 < pooled["knn_accuracy"] <= 1
        assert 0.3 < pooled["accuracy"] <= 1

    before = {path: path.stat().st_mtime_ns for path in (run / "probe").rglob("*.npy")}
    cli.main(["probe", str(run), "--stages", "pooled", "--no-random"])
    assert {path: path.stat().st_mtime_ns for path in (run / "probe").rglob("*.npy")} == before
    lines = capsys.readouterr().out.splitlines()
    table = [line for line in lines if not line.startswith("The picture is in")]
    assert max(map(len, table)) <= 80
    shown = " ".join(" ".join(table).split())
    assert "ntrained" not in shown
    assert f"{100 * printed['stages'][1]['accuracy']:.1f}" in shown
    assert "Images: shorter side 8 pixels" in shown


def test_features_of_a_run_are_of_its_own_data(run, tmp_path, capsys):
    cli.main(["features", str(run), "--stages", "stage3", "--out", str(tmp_path / "f"), "--dtype", "float16"])
    assert "stage3.npy float16 (360, 64) 46.1 KB" in " ".join(capsys.readouterr().out.split())
    assert open_features(tmp_path / "f")["stage3"].dtype == np.float16
    cli.main(["features", str(run), "--split", "all", "--maps", "--out", str(tmp_path / "all")])
    assert open_features(tmp_path / "all")["pooled"].shape == (1797, 64)


def test_commands_that_cannot_be_meant(run, tmp_path, monkeypatch):
    read, loaded = named.load_run, named.load_run(run)
    monkeypatch.setattr(named, "load_run", lambda at, *rest: loaded if str(at) == str(run) else read(at, *rest))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    for line, text in (
        ("probe", "name one network: the folder of a run, a weight file or a published set"),
        (f"features {run} --weights x", "name one network"),
        (f"probe {run} --entry ema", "--entry and --prefix are for --weights; name the file by --weights FILE"),
        (f"probe {run} --data.exif", "--data.exif is for weights without a run; .* Leave it out, or train with"),
        (f"probe {run} --preset.crop 9", "--preset is for weights without a run; .* Leave it out"),
        (f"probe {run} --batch-size 0", "--batch-size = 0 must be at least 1"),
        (
            f"probe {run} --stages stage9",
            r"no stage 'stage9'; did you mean 'stage3'\? Its stages are stem, stage1, stage2",
        ),
        (f"features {run} --stages stage9", "has no stage 'stage9'"),
        (f"probe {run} --out {tmp_path / 'mine'}", "belongs to something else than a probe: it holds thesis.tex"),
        (f"probe {run} --out {run}", "belongs to something else than a probe: it holds checkpoints, class_names.json"),
        (f"features {run} --out {run}", "belongs to something else: it holds checkpoints"),
        (f"probe {tmp_path / 'nowhere'}", "there is no .*nowhere; name the folder of a run"),
        (f"probe {run} --data.eval-split tset", "unknown split of digits 'tset'"),
    ):
        with pytest.raises(SystemExit, match=text):
            cli.main(line.split())
    empty = tmp_path / "empty"
    empty.mkdir()
    for name in ("config.json", "class_names.json"):
        (empty / name).write_text((run / name).read_text())
    with pytest.raises(SystemExit, match="empty holds no checkpoint yet; continue its training"):
        cli.main(["probe", str(empty)])


def test_data_of_one_class(run, tmp_path):
    images, labels = np.zeros((30, 8, 8, 1), np.uint8), np.zeros(30, int)
    arrays = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
    np.savez(tmp_path / "one.npz", **arrays)
    with pytest.raises(SystemExit, match="30 images of 1 class are no task for a classifier; choose a data set"):
        cli.main(["probe", str(run), "--data.name", f"npz:{tmp_path}/one.npz", "--out", str(tmp_path / "o")])


@pytest.mark.slow
def test_an_untrained_network_is_as_initialised():
    model = create_model("cifar_resnet20", num_classes=3, stage_sizes=(1, 1, 1), width=4, dtype=jnp.float16)
    trained = Network("tiny", model, {}, rn.Preset(mean=(0.5,), std=(0.5,)), tuple("abc"))
    found, other = (untrained(trained, seed) for seed in (0, 1))
    assert found.model.dtype == jnp.float32
    assert found.variables["params"]["conv1"]["kernel"].shape == (3, 3, 1, 4)
    assert not np.array_equal(*(n.variables["params"]["conv1"]["kernel"] for n in (found, other)))
    for statistics in jax.tree.leaves(found.variables["batch_stats"], is_leaf=lambda x: "mean" in x):
        assert not statistics["mean"].any()
        assert (statistics["var"] == 1).all()


def test_an_untrained_network_whose_features_overflow(tmp_path):
    """It is shown as such; the trained network's numbers are not lost."""
    stage = StageProbe("pooled", 4, 1.0, True, 0.5, 0.5, 0.5, 1.0, 0.25)
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(40, 4)), np.arange(40) % 2

    class Kept(dict):
        pass

    kept = Kept(pooled=np.where(np.arange(4) == 2, np.inf, features))
    kept.labels = labels
    broken = module._probe_stage("pooled", kept, kept, 0)
    assert broken.features == 4
    assert math.isnan(broken.accuracy)
    assert not broken.end_of_grid
    result = Probe("a [net]", "$data$", (stage,), (broken,), 2, 40, 40, 20, 0.5)
    plot_probe(result, tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 5000
    from resnet_jax.commands.probe import _table, _without_nan
    from resnet_jax.display import plain_console

    console = plain_console(width=80, record=True)
    console.print(_table(result, "images: as they are"))
    text = console.export_text()
    assert text.count("not finite") == 2
    assert "running statistics as initialised (mean 0, variance 1)" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    assert "1*" in text
    assert "a [net], on $data$" in text
    assert _without_nan({"a": [math.nan, math.inf, 1.5]}) == {"a": [None, None, 1.5]}
