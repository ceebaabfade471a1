"""`idx:`: MNIST's files, whole and damaged."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from resnet_jax.cli import main
from resnet_jax.config import DataConfig
from resnet_jax.data import eval_batches, list_splits, load_source
from resnet_jax.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
LABELS = np.array([3, 0, 1, 1, 2], np.uint8)
FASHION = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package dataset-fashion-mnist puts them


def idx(array):
    """By the description of the format, with nothing of ours."""
    sides = b"".join(side.to_bytes(4, "big") for side in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sides + array.tobytes()


def write(folder, files=None):
    whole = {
        "train-images-idx3-ubyte": idx(IMAGES),
        "train-labels-idx1-ubyte": idx(LABELS),
        "t10k-images.idx3-ubyte.gz": gzip.compress(idx(IMAGES[:2])),
        "t10k-labels.idx1-ubyte.gz": gzip.compress(idx(LABELS[:2])),
    }
    for name, data in {**whole, **(files or {})}.items():
        if data is not None:
            (folder / name).write_bytes(data)
    return DataConfig(name=f"idx:{folder}", channels=1, mean=(0.5,), std=(0.5,), image_size=4, eval_resize=4)


@pytest.mark.parametrize("split", ["train", "test"])
def test_images_and_labels_are_those_of_the_files(split, tmp_path):
    config = write(tmp_path, {"notes.txt": b"x", "._train-images-idx3-ubyte": b"x"})
    assert list_splits(config) == ["train", "test"]
    source = load_source(config, split)
    count = {"train": 5, "test": 2}[split]
    assert (len(source), source.splits, source.class_names) == (count, ("train", "test"), ("0", "1", "2", "3"))
    for i in reversed(range(count)):
        np.testing.assert_array_equal(source[i]["image"], IMAGES[i, ..., None])
        assert source[i]["label"] == LABELS[i]
    np.testing.assert_array_equal(source.labels(), LABELS[:count])
    with pytest.raises(DataError, match="unknown split of idx:.*'trian'. Did you mean 'train'"):
        load_source(config, "trian")


def test_grey_images_reach_networks_of_one_and_of_three_channels(tmp_path):
    one = write(tmp_path)
    three = DataConfig(name=one.name, image_size=4, eval_resize=4)
    (grey,), (coloured,) = (
        [batch["image"] for batch in eval_batches(load_source(config, "train"), config, batch_size=5)]
        for config in (one, three)
    )
    assert grey.shape == (5, 4, 4, 1)
    np.testing.assert_array_equal(coloured, np.repeat(grey, 3, axis=3))
    np.testing.assert_array_equal(grey[2, ..., 0], IMAGES[2, 2:6])  # 7 x 4 pixels: cut to the middle


def test_a_file_of_names_names_the_classes(tmp_path):
    config = write(tmp_path, {"names": "ä\nb\nc\nd\n".encode()})
    assert load_source(config, "train").class_names == ("ä", "b", "c", "d")
    (tmp_path / "names").write_text("a\nb\nc\n")
    with pytest.raises(DataError, match=r"1 examples of idx:.* out of range, the first is example 0 with 3.*0\.\.2"):
        load_source(config, "train")


def test_a_file_is_preferred_to_its_compressed_copy(tmp_path):
    config = write(tmp_path, {"train-images-idx3-ubyte.gz": b"not read"})
    assert len(load_source(config, "train")) == 5


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"train-images-idx3-ubyte": b"\0\0\x0d\x03" + idx(IMAGES)[4:]},
            "train-images-idx3-ubyte begins with the bytes 00 00 0d 03; .* 3 axes begins with 00 00 08 03. Fetch it",
        ),
        (
            {"t10k-labels.idx1-ubyte.gz": gzip.compress(idx(IMAGES))},
            "t10k-labels.idx1-ubyte.gz begins with the bytes 00 00 08 03; .* 1 axes begins with 00 00 08 01",
        ),
        ({"train-labels-idx1-ubyte": b""}, "begins with the bytes of an empty file; "),
        (
            {"train-images-idx3-ubyte": idx(IMAGES)[:-1]},
            "train-images-idx3-ubyte is cut short: it promises 5 x 7 x 4 bytes, and 139 are there. Fetch it again",
        ),
        ({"train-images-idx3-ubyte": idx(IMAGES) + b"\0"}, "is too long: it promises 5 x 7 x 4 bytes, and 141 are"),
        (
            {"train-images-idx3-ubyte": idx(IMAGES)[:9]},
            "train-images-idx3-ubyte is cut short: it ends within its first 16 bytes",
        ),
        (
            {"train-images-idx3-ubyte": None, "train-images-idx3-ubyte.gz": gzip.compress(idx(IMAGES))[:-30]},
            "cannot read .*train-images-idx3-ubyte.gz: .*end-of-stream.* whole file of MNIST's kind. Fetch it again",
        ),
        (
            {"train-images-idx3-ubyte": None, "train-images-idx3-ubyte.gz": b"<html>"},
            "cannot read .*train-images-idx3-ubyte.gz: Not a gzipped file",
        ),
        (
            {
                "train-images-idx3-ubyte": None,
                "train-images-idx3-ubyte.gz": gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12 + b"x"),
            },
            "is cut short: it promises 4294967295 x 4294967295 x 4294967295 bytes, and 1 are there",
        ),
        (
            {"train-labels-idx1-ubyte": idx(LABELS[:4])},
            "train-images-idx3-ubyte holds 5 images, and .*train-labels-idx1-ubyte 4 labels; .*one label for each",
        ),
        (
            {"train-labels-idx1-ubyte": None},
            "has train-images-idx3-ubyte, but not the labels of the split 'train'; each split .* Fetch that file",
        ),
        (
            {"t10k-images.idx3-ubyte.gz": None},
            "has t10k-labels.idx1-ubyte.gz, but not the images of the split 'test'",
        ),
        (
            {"test-images-idx3-ubyte": idx(IMAGES)},
            "has the images of the split 'test' more than once: t10k-images.idx3-ubyte.gz, test-images-idx3-ubyte; ",
        ),
        ({"names": b"\xff\xfe"}, "cannot read .*names: .*must be UTF-8, one name a line"),
    ],
)
def test_damage_is_named(files, message, tmp_path):
    config = write(tmp_path, files)
    with pytest.raises(DataError, match=message) as caught:
        load_source(config, "train")
    assert "\n" not in str(caught.value)


def test_a_folder_without_them(tmp_path):
    with pytest.raises(
        DataError, match="holds no file of MNIST's kind; it must hold SPLIT-images-idx3-ubyte and .*Name"
    ):
        load_source(DataConfig(name=f"idx:{tmp_path}"), "train")
    with pytest.raises(DataError, match="nowhere is not a folder; .*Correct `idx:PATH`"):
        list_splits(DataConfig(name=f"idx:{tmp_path}/nowhere"))


def test_the_commands_for_data(tmp_path, capsys):
    name = write(tmp_path).name
    main(["data", "info", name])
    out = capsys.readouterr().out
    assert {"train", "test"} <= {*out.split()}
    with pytest.raises(SystemExit, match="^1$"):  # the test split holds images of the training split
        main(["data", "check", name])
    assert "2 images are in both" in " ".join(capsys.readouterr().out.split())
    main(["data", "show", name, "--split", "train", "--images", "4", "--out", str(tmp_path / "grid.png")])
    assert (tmp_path / "grid.png").stat().st_size > 1000


def test_fashion_mnist():
    """All 70,000, where Debian has them."""
    if not FASHION.is_dir():
        pytest.skip("Debian's dataset-fashion-mnist is not installed: apt-get install dataset-fashion-mnist")
    config = DataConfig(name=f"idx:{FASHION}")
    train, test = (load_source(config, split) for split in ("train", "test"))
    assert (len(train), len(test), train.class_names) == (60_000, 10_000, tuple("0123456789"))
    for source in (train, test):
        assert np.bincount(source.labels()).tolist() == [len(source) // 10] * 10
        assert source[len(source) - 1]["image"].shape == (28, 28, 1)
