import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_jax.config import DataConfig
from resnet_jax.data import eval_batches, load_source, write_records
from resnet_jax.data.sources import records as module
from resnet_jax.data.sources.tfds import build
from resnet_jax.data.transforms import decode
from resnet_jax.errors import DataError

ROOT = Path(__file__).parents[2]
FIXTURE = Path(__file__).parent / "fixtures" / "array_record"


def photo(number, size):
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path):
    """Photos of 3 classes in two splits, one of them smaller than the rest."""
    for split, count in (("train", 9), ("test", 5)):
        for i in range(count):
            path = tmp_path / "photos" / split / "abc"[i % 3] / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            photo(i, (20, 24) if i == 1 else (60 + i, 90)).save(path, quality=92)
    return tmp_path / "photos"


def sources(folder, *splits):
    config = DataConfig(name=f"folder:{folder}")
    return {split: load_source(config, split) for split in splits or ("train", "test")}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_records_hold_the_resized_images(folder, tmp_path, torchvision, encoding, channels):
    from torchvision.transforms import Resize

    made = sources(folder)
    left_out = write_records(made, tmp_path / "small", short_side=32, encoding=encoding, channels=channels)
    assert left_out == {"train": 0, "test": 0}
    source = load_source(DataConfig(name=f"records:{tmp_path / 'small'}"), "train")
    assert source.class_names == ("a", "b", "c")
    assert source.splits == ("train", "test")
    np.testing.assert_array_equal(source.labels(), made["train"].labels())
    for i in range(9):
        image = Image.open(io.BytesIO(made["train"][i]["image"])).convert("L" if channels == 1 else "RGB")
        small = image if min(image.size) <= 32 else Resize(32, antialias=True)(image)
        expected = np.asarray(small).reshape(*small.size[::-1], channels)
        pixels = decode(source[i]["image"], channels, name="x")
        assert source[i]["label"] == made["train"][i]["label"]
        assert isinstance(source[i]["image"], bytes) == (encoding == "jpeg")
        assert pixels.shape == expected.shape
        assert np.abs(pixels.astype(int) - expected).mean() <= (0 if encoding == "raw" else 4)


def test_evaluation_from_pixels_is_that_of_the_full_images(folder, tmp_path):
    """Byte for byte, where they are as small as evaluation makes them."""
    write_records(sources(folder), tmp_path / "small", short_side=40, encoding="raw")
    small = load_source(DataConfig(name=f"records:{tmp_path / 'small'}"), "test")
    config = DataConfig(image_size=32, eval_resize=40)
    both = [list(eval_batches(source, config, batch_size=2)) for source in (sources(folder)["test"], small)]
    for full, cached in zip(*both, strict=True):
        for name in full:
            np.testing.assert_array_equal(cached[name], full[name])


def test_an_interrupted_preparation_goes_on(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PER_SHARD", 2)
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    write_records(sources(folder), straight, short_side=32)

    def interrupt(split, done):
        if done >= 4:
            raise KeyboardInterrupt("pulled the plug")

    with pytest.raises(KeyboardInterrupt, match="pulled the plug"):
        write_records(sources(folder), resumed, short_side=32, on_progress=interrupt)
    with pytest.raises(DataError, match="holds no finished records: .*Correct `records:PATH`, or make them with"):
        load_source(DataConfig(name=f"records:{resumed}"), "train")
    kept = {path: path.stat().st_mtime_ns for path in resumed.glob("*.array_record")}
    assert len(kept) == 2
    (resumed / "train-00002.array_record.partial").write_bytes(b"torn")
    done = []
    write_records(sources(folder), resumed, short_side=32, on_progress=lambda *at: done.append(at))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "what was done is not done again"
    assert done == [*(("train", n) for n in (2, 4, 6, 8, 9)), *(("test", n) for n in (2, 4, 5))]
    for path in straight.iterdir():
        assert (resumed / path.name).read_bytes() == path.read_bytes()


def test_records_refuse_what_does_not_fit(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PER_SHARD", 4)
    small = tmp_path / "small"
    config = DataConfig(name=f"records:{small}")
    write_records(sources(folder), small, short_side=32)
    with pytest.raises(DataError, match=r"begun with other settings \(short_side: 32 before, 48 now\); .*Choose an"):
        write_records(sources(folder), small, short_side=48)
    with pytest.raises(DataError, match="unknown complete split of records:.*'trian'. Did you mean 'train'"):
        load_source(config, "trian")
    shard = small / "train-00001.array_record"
    whole = shard.read_bytes()
    shard.write_bytes((small / "train-00002.array_record").read_bytes())
    with pytest.raises(DataError, match=r"holds 6 records, but .*info.json says 9; .*Run `data prepare` again"):
        load_source(config, "train")
    shard.write_bytes(whole[:50])
    with pytest.raises(DataError, match="cannot read .*train-00001.array_record: .*Delete it, and prepare again"):
        write_records(sources(folder), small, short_side=32)
    shard.unlink()
    with pytest.raises(DataError, match="lacks 1 of its files, the first is train-00001.array_record; .*Copy them, or"):
        load_source(config, "train")
    (small / "info.json").write_text('{"version": 0}')
    with pytest.raises(DataError, match="has version 0; this program reads version 1. Prepare the data again"):
        load_source(config, "train")


def test_a_full_disk_is_noticed(folder, tmp_path, monkeypatch):
    count = module.count_records
    monkeypatch.setattr(module, "count_records", lambda path: count(path) - 1)
    with pytest.raises(DataError, match="partial holds 8 of 9 records; is the disk full. Prepare again"):
        write_records(sources(folder), tmp_path / "small", short_side=32)


def test_unreadable_images_are_left_out_and_counted(folder, tmp_path):
    (folder / "train" / "b" / "4.jpg").write_bytes(b"torn")
    with pytest.raises(DataError, match=r"1 of 9 images cannot be read, more than max_broken_fraction = 0.001 .*4.jpg"):
        write_records(sources(folder), tmp_path / "small", short_side=32)
    for _ in range(2):  # the second time from the shards
        left_out = write_records(sources(folder), tmp_path / "small", short_side=32, max_broken_fraction=0.2)
        assert left_out == {"train": 1, "test": 0}
    assert len(load_source(DataConfig(name=f"records:{tmp_path / 'small'}"), "train")) == 8


def data(*arguments):
    command = [sys.executable, "-m", "resnet_jax", "data", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "COLUMNS": "120"}, capture_output=True, text=True)


def test_the_commands_prepare_and_describe(folder, tmp_path):
    small = tmp_path / "small"
    done = data("prepare", "folder", folder, "--short-side", 32, "--format", "array_record", "--out", small)
    assert done.returncode == 0, done.stderr
    assert "train: 9 images, 0 left out" in done.stdout
    assert f"--data.name records:{small}" in done.stdout
    table = data("info", f"records:{small}").stdout
    assert "train" in table
    assert "test" in table
    report = json.loads(data("info", f"folder:{folder}", "--as-json").stdout)
    assert report["splits"]["train"] == {"images": 9, "classes": {"a": 3, "b": 3, "c": 3}}
    tiny = json.loads(data("info", "tfds:tiny_digits", "--directory", FIXTURE, "--as-json").stdout)
    assert tiny["splits"]["test"] == {"images": 10, "classes": {f"digit_{i}": 1 for i in range(10)}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "folder"], "needs the folder's path"),
        (["prepare", "folder", "/tmp"], "--short-side must say how small"),
        (["prepare", "digits", "--short-side", "4"], "--out must name the folder"),
        (
            ["prepare", "digits", "--short-side", "4", "--out", "OUT", "--quality", "0"],
            "--quality = 0 must be",
        ),
        (["prepare", "no_such_data"], "needs TensorFlow, which is not installed"),
        (["info", "digit"], "Did you mean 'digits'?"),
    ],
)
def test_the_commands_explain_what_they_cannot_do(tmp_path, arguments, message):
    if "TensorFlow" in message:
        from importlib.util import find_spec

        if find_spec("tensorflow"):
            pytest.skip("TensorFlow is installed")
    done = data(*[tmp_path / "out" if word == "OUT" else word for word in arguments])
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_building_a_tfds_data_set(tmp_path, monkeypatch):
    """With a stand-in for TFDS's builder: building itself needs TensorFlow."""
    import tensorflow_datasets as tfds

    monkeypatch.setattr("resnet_jax.data.sources.tfds.find_spec", lambda name: name)
    with pytest.raises(DataError, match="TFDS knows no data set 'no_such_data' .*Correct the name; .*--short-side"):
        build("no_such_data", str(tmp_path), None)
    asked = {}

    class Builder:
        data_path = tmp_path / "built"

        def download_and_prepare(self, download_config):
            asked["manual_dir"] = download_config.manual_dir
            if asked["manual_dir"] is None:
                raise AssertionError("Manual directory does not exist: put the archives into it")

    def builder(name, **options):
        asked.update(options, name=name)
        return Builder()

    monkeypatch.setattr(tfds, "builder", builder)
    assert build("imagenet2012", str(tmp_path), Path("/archives")) == str(tmp_path / "built")
    assert asked == {
        "name": "imagenet2012",
        "data_dir": str(tmp_path),
        "file_format": "array_record",
        "manual_dir": "/archives",
    }
    with pytest.raises(DataError, match="cannot prepare imagenet2012: Manual directory .*give --manual-dir"):
        build("imagenet2012", str(tmp_path), None)


@pytest.mark.parametrize("damage", ["cut short", "of another preparation"])
def test_records_that_are_not_those_of_the_preparation(folder, tmp_path, damage):
    write_records(sources(folder), tmp_path / "small", short_side=32)
    info = tmp_path / "small" / "info.json"
    config = DataConfig(name=f"records:{tmp_path / 'small'}")
    if damage == "cut short":
        shard = tmp_path / "small" / "train-00000.array_record"
        shard.write_bytes(shard.read_bytes()[:-100])
        with pytest.raises(DataError, match=r"cannot read .*train-00000.array_record: .*prepare again"):
            load_source(config, "train")
    else:
        info.write_text(json.dumps(json.loads(info.read_text()) | {"class_names": ["a", "b"]}))
        with pytest.raises(DataError, match=r"example 6 of .* has label 2, and info.json names 2 classes: .*again"):
            load_source(config, "train")[6]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', '{"version": 1, "splits": 3, "class_names": []}'])
def test_a_damaged_description_of_records(tmp_path, text):
    (tmp_path / "info.json").write_text(text)
    with pytest.raises(DataError, match=r"info.json (is damaged|has version None).*[Pp]repare the data again"):
        load_source(DataConfig(name=f"records:{tmp_path}"), "train")
