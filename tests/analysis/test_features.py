"""Features on disk: equal to what the network gives, in any number of sittings, and never those of something else."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.analysis import store
from resnet_jax.analysis.features import features
from resnet_jax.analysis.store import Writer, open_features
from resnet_jax.config import DataConfig, Preset
from resnet_jax.data import load_source
from resnet_jax.errors import ConfigError, DataError, StorageError
from resnet_jax.models import create_model, variable_shapes
from resnet_jax.run.network import Network

DIGITS = DataConfig(name="digits", threads=2)
PRESET = Preset(resize=9, crop=9, mean=(0.3,), std=(0.4,))
STAGES = ("stage1", "stage3", "pooled")


@pytest.fixture(scope="module")
def network():
    """Tiny, with random scales, biases and statistics, so that no error hides behind a zero or a one."""
    model = create_model("cifar_resnet20", num_classes=10, stage_sizes=(1, 1, 1), width=4)
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        name, shape = jax.tree_util.keystr(path), leaf.shape
        if "kernel" in name:
            value = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1]))
        else:
            value = rng.uniform(0, 0.3, shape) + ("scale" in name or "var" in name)
        return value.astype(np.float32)

    moved = jax.tree_util.tree_map_with_path(fill, variable_shapes(model, channels=1))
    return Network("tiny", model, moved, PRESET, tuple("0123456789"))


@pytest.fixture(scope="module")
def expected(network):
    """What the network gives for every test image, computed in one go and without any of our own passes."""
    source = load_source(DIGITS, "test")
    from PIL import Image

    pixels = np.stack([np.asarray(Image.fromarray(source[i]["image"][..., 0]).resize((9, 9), 2)) for i in range(360)])
    images = (pixels[..., None] / np.float32(255) - np.float32(0.3)) / np.float32(0.4)
    run = jax.jit(lambda v, x: network.model.apply(v, x, train=False, features=True))
    return {**jax.device_get(run(network.variables, jnp.asarray(images, jnp.float32))), "label": source.labels()}


def compute(network, folder, **options):
    given = {"stages": STAGES, "batch_size": 64, **options}
    return features(network, given.pop("config", DIGITS), given.pop("split", "test"), folder=folder, **given)


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("maps", [False, True])
def test_features_are_what_the_network_gives(network, expected, tmp_path, maps):
    kept = compute(network, tmp_path / "out", maps=maps)
    assert kept.stages == STAGES
    assert kept.class_names == tuple("0123456789")
    np.testing.assert_array_equal(kept.labels, expected["label"])
    for stage in STAGES:
        array = kept[stage]
        assert isinstance(array, np.memmap), "it must not be read into memory"
        right = expected[stage]
        right = right if maps or right.ndim == 2 else right.mean(axis=(1, 2), dtype=np.float64)
        assert array.shape == right.shape
        np.testing.assert_allclose(array, right, rtol=1e-5, atol=1e-5)
        assert right.std() > 0.1
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "pooled.npy"), kept["pooled"])


def test_whole_maps_are_exactly_those_of_apply(network, tmp_path):
    kept = compute(network, tmp_path / "out", maps=True, stages=("stage1", "stage3"), batch_size=360)
    from resnet_jax.data import eval_batches, normalize
    from resnet_jax.data.fills import EvalImage

    (batch,) = eval_batches(load_source(DIGITS, "test"), DIGITS, batch_size=360, fill=EvalImage(PRESET))
    run = jax.jit(lambda v, x: network.model.apply(v, normalize(x, PRESET), train=False, features=True))
    # On one device the program is another one than on eight, with other rounding.
    right = [run(network.variables, batch["image"][start : start + 45]) for start in range(0, 360, 45)]
    for stage in kept.stages:
        np.testing.assert_array_equal(kept[stage], np.concatenate([part[stage] for part in right]))


def test_half_precision(network, tmp_path):
    whole, half = (compute(network, tmp_path / kind, dtype=kind) for kind in ("float32", "float16"))
    for stage in STAGES:
        assert half[stage].dtype == np.float16
        np.testing.assert_array_equal(half[stage], whole[stage].astype(np.float16))


class Killed(BaseException):
    pass


def test_a_pass_that_was_killed_goes_on(network, tmp_path, monkeypatch):
    straight = compute(network, tmp_path / "straight")
    monkeypatch.setattr(store, "SYNC_SECONDS", -1.0)

    def kill(done, count):
        if done >= 3 * 64:
            raise Killed("now")

    monkeypatch.setattr(Writer, "__exit__", lambda *args: None)  # nothing is done at the end of a killed process
    with pytest.raises(Killed, match="now"):
        compute(network, tmp_path / "killed", tell=kill)
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"holds features of 192 of 360 images; run the command that began it again"):
        open_features(tmp_path / "killed")
    # A kill between two files leaves one of them longer than the other, and with half a row.
    with (tmp_path / "killed" / "stage3.npy").open("ab") as file:
        file.write(b"half a row")
    seen = []
    compute(network, tmp_path / "killed", tell=lambda done, count: seen.append((done, count)))
    assert seen == [(192, 360), (256, 360), (320, 360), (360, 360)], "only what was missing is computed"
    assert files_of(tmp_path / "killed") == files_of(straight.folder)


def test_what_is_complete_is_not_computed_again(network, tmp_path):
    compute(network, tmp_path / "out")
    before = files_of(tmp_path / "out")
    seen = []
    again = compute(network, tmp_path / "out", stages=("pooled",), tell=lambda *now: seen.append(now))
    assert not seen
    assert again.stages == STAGES
    assert files_of(tmp_path / "out") == before
    (tmp_path / "out" / "stage1.npy").write_bytes(before["stage1.npy"][:-1])  # damage is mended
    compute(network, tmp_path / "out", tell=lambda *now: seen.append(now))
    assert seen[0] == (359, 360)
    assert files_of(tmp_path / "out") == before


def test_features_of_something_else_are_refused_or_made_anew(network, tmp_path, caplog):
    out = tmp_path / "out"
    compute(network, out)
    before = files_of(out)
    nearly = jax.tree.map(lambda x: x, network.variables)
    nearly["batch_stats"]["bn1"]["mean"] = nearly["batch_stats"]["bn1"]["mean"] + np.float32(1e-6)
    others = {
        "other weights": {"network": replace(network, variables=nearly)},
        "other preparation of images": {"network": replace(network, preset=replace(PRESET, mean=(0.31,)))},
        "other network": {"network": replace(network, model=network.model.clone(act="silu"))},
        "other data": {"split": "train"},
        "other kind of features": {"maps": True},
        "other stages (stage1, stage3, pooled)": {"stages": ("stage2",)},
    }
    for text, options in others.items():
        with pytest.raises(ConfigError, match=r"holds features of .*Choose another folder") as refused:
            compute(**{"network": network, "folder": out, **options})
        assert f"holds features of {text}, and keeps them" in str(refused.value)
    with pytest.raises(ConfigError, match="other stages"):
        compute(network, out, dtype="float16")
    assert files_of(out) == before
    compute(network, out, split="train", replace_others=True)
    assert "held features of other data; they are made anew" in caplog.text
    assert len(open_features(out).labels) == 1437


def test_folders_that_are_no_place_for_features(network, tmp_path, monkeypatch):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"mine belongs to something else: it holds thesis.tex and no features.json"):
        compute(network, mine)
    with pytest.raises(ConfigError, match="thesis.tex is a file; features are written into a folder"):
        compute(network, mine / "thesis.tex")
    with pytest.raises(StorageError, match=r"could not be written: .*thesis.tex takes no files. Choose another"):
        compute(network, mine / "thesis.tex" / "in" / "it")
    with pytest.raises(ConfigError, match="mapped from files, which gs://a/b cannot be; choose a folder of this"):
        compute(network, "gs://a/b")
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: type("", (), {"free": 100})())
    with pytest.raises(StorageError, match=r"the features need 0.00 GB, and .* has room for 0.00 GB; choose fewer"):
        compute(network, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(DataError, match=r"mine holds no features \(features.json\); name a folder that"):
        open_features(mine)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "features.json").write_text("{")
    with pytest.raises(DataError, match="features.json cannot be read: .* and make the features again"):
        open_features(tmp_path / "broken")


def test_what_cannot_be_kept(network, tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"tiny has no stage 'stage4', 'layer1'; did you mean 'stage3'\? Its stages are stem, stage1, stage2, "
        "stage3, pooled, logits. Name some of these",
    ):
        compute(network, tmp_path / "out", stages=("stage4", "pooled", "layer1"))
    with pytest.raises(ConfigError, match="tiny has no stage without a name"):
        compute(network, tmp_path / "out", stages=())
    large = jax.tree.map(lambda x: x, network.variables)
    large["params"]["conv1"]["kernel"] = large["params"]["conv1"]["kernel"] * 1e6
    large["batch_stats"]["bn1"]["var"] = large["batch_stats"]["bn1"]["var"] * 0 + 1
    with pytest.raises(DataError, match=r"stage1 for image 0 of digits test are not finite .*; keep them as float32"):
        compute(replace(network, variables=large), tmp_path / "half", dtype="float16")
    large["params"]["conv1"]["kernel"] = large["params"]["conv1"]["kernel"] * np.nan
    with pytest.raises(
        DataError, match=r"stage1 for image 0 of digits test are not finite .*; see that the network was"
    ):
        compute(replace(network, variables=large), tmp_path / "nan")
    kept = compute(network, tmp_path / "out", stages=("pooled",))
    with pytest.raises(ConfigError, match="out holds no features of 'stage1'; it holds pooled"):
        kept["stage1"]


def test_an_empty_split_and_other_tasks(network, tmp_path):
    images, labels = np.zeros((0, 8, 8, 1), np.uint8), np.zeros(0, int)
    np.savez(tmp_path / "none.npz", test_images=images, test_labels=labels, class_names=["a", "b"])
    with pytest.raises(DataError, match="none.npz test holds 0 images; features need at least one"):
        compute(network, tmp_path / "out", config=DataConfig(name=f"npz:{tmp_path}/none.npz"))
    with pytest.raises(ConfigError, match="gives no label.*a store of features needs image and label"):
        compute(network, tmp_path / "out", config=DataConfig(name="digit_scenes"))


def test_rows_are_handed_over_batch_by_batch(network, tmp_path, monkeypatch):
    """So that memory does not grow with their number."""
    given = []
    write = Writer.write
    monkeypatch.setattr(Writer, "write", lambda self, rows: (given.append(len(rows["label"])), write(self, rows))[1])
    compute(network, tmp_path / "out")
    assert given == [64, 64, 64, 64, 64, 40]
    manifest = json.loads((tmp_path / "out" / "features.json").read_text())
    assert (manifest["rows"], manifest["count"]) == (360, 360)
    assert set(manifest["of"]) == {"weights", "network", "data", "preparation_of_images", "kind_of_features"}
