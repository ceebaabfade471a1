import os

import numpy as np
import pytest

from resnet_jax.config import DataConfig
from resnet_jax.data import Arrays, list_splits, load_source
from resnet_jax.errors import DataError, ImageError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 2, 1, 0])


def test_arrays_in_memory():
    source = Arrays(IMAGES, LABELS, ["a", "b", "c"])
    assert (len(source), source.class_names) == (6, ("a", "b", "c"))
    np.testing.assert_array_equal(source[3]["image"], IMAGES[3])
    assert source[3]["label"] == 2
    assert Arrays(IMAGES[..., 0], LABELS, "abc")[0]["image"].shape == (5, 4, 1)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            IMAGES.astype(np.float32),
            LABELS,
            r"a float32 array of shape \(6, 5, 4, 3\); they must be uint8 .*Convert",
        ),
        (IMAGES[..., :2], LABELS, r"shape \(6, 5, 4, 2\); they must be uint8"),
        (IMAGES, LABELS[:5], r"labels of the arrays are a int64 array of shape \(5,\); .*the 6 images. Correct them"),
        (IMAGES, LABELS.astype(float), "labels of the arrays are a float64 array"),
        (
            IMAGES,
            LABELS - 1,
            r"2 examples of the arrays have labels out of range, .* example 0 with -1; .*0\.\.2",
        ),
    ],
)
def test_arrays_of_the_wrong_kind(images, labels, message):
    with pytest.raises(DataError, match=message):
        Arrays(images, labels, "abc")


def test_npz(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, train_images=IMAGES, train_labels=LABELS, test_images=IMAGES[:2, ..., 0], test_labels=LABELS[:2])
    config = DataConfig(name=f"npz:{path}")
    assert list_splits(config) == ["test", "train"]
    assert load_source(config, "test").class_names == ("0", "1", "2"), "the same for all splits"
    np.testing.assert_array_equal(load_source(config, "train")[5]["image"], IMAGES[5])
    np.savez(path, train_images=IMAGES, train_labels=LABELS, class_names=["x", "y", "z"])
    assert load_source(config, "train").class_names == ("x", "y", "z")
    with pytest.raises(DataError, match="unknown split of npz:.*'trian'. Did you mean 'train'"):
        load_source(config, "trian")
    np.savez(path, train_images=IMAGES, train_label=LABELS)
    with pytest.raises(DataError, match="has no train_labels; .*Add the labels"):
        load_source(config, "train")
    with pytest.raises(DataError, match="there is no file .*nowhere.npz; .*Correct the path"):
        load_source(DataConfig(name=f"npz:{tmp_path}/nowhere.npz"), "train")


def cut_short(data):
    return data[: len(data) // 2]


def changed(data):
    at = data.index(b"NUMPY") + 200
    return data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]


@pytest.mark.parametrize("damage", [cut_short, changed, lambda data: b"", lambda data: b"not an archive at all"])
def test_a_damaged_npz_is_named(tmp_path, damage):
    path = tmp_path / "data.npz"
    np.savez(path, train_images=IMAGES, train_labels=LABELS)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"cannot read npz:.*data.npz: .*Write it again"):
        load_source(DataConfig(name=f"npz:{path}"), "train")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train_images": IMAGES.astype(object)}, "it holds Python objects, which may run code"),
        ({"train_labels": np.array(list("aabbcc"))}, "labels of npz:.*are a <U1 array .*Number the classes from 0"),
        ({"train_labels": np.array([b"a"] * 6)}, "labels of npz:.*are a |S1 array"),
        ({"train_labels": LABELS.astype(object)}, "it holds Python objects"),
        ({"train_labels": LABELS.astype(float)}, "are a float64 array"),
        ({"test_images": IMAGES, "test_labels": LABELS[:, None] * 0.5}, "split 'test' are a float64 array"),
        ({"class_names": np.array(["a", "b", None])}, "it holds Python objects"),
        ({"train_labels": np.uint64([0, 1, 2, 0, 1, 2**63])}, "cannot read npz|out of range|out of memory|Unable"),
    ],
)
def test_an_odd_npz_is_named(tmp_path, arrays, message):
    path = tmp_path / "data.npz"
    names = {"class_names": ["a", "b", "c"]} if "uint64" in str(arrays) else {}
    np.savez(path, **{"train_images": IMAGES, "train_labels": LABELS, **names, **arrays})
    with pytest.raises(DataError, match=message):
        load_source(DataConfig(name=f"npz:{path}"), "train")


def test_an_npy_is_no_npz_and_names_may_be_bytes(tmp_path):
    np.save(tmp_path / "data.npy", IMAGES)
    with pytest.raises(DataError, match="it holds a single array; it must be a whole file of numpy.savez"):
        load_source(DataConfig(name=f"npz:{tmp_path}/data.npy"), "train")
    names = np.array([b"x", b"y", "\u00e9".encode()])
    np.savez(tmp_path / "data.npz", train_images=IMAGES, train_labels=LABELS, class_names=names)
    assert load_source(DataConfig(name=f"npz:{tmp_path}/data.npz"), "train").class_names == ("x", "y", "\u00e9")


def test_synthetic_images_are_the_same_everywhere():
    config = DataConfig(name="synthetic", image_size=8, eval_resize=12)
    a, b = load_source(config, "train"), load_source(config, "train")
    assert len(a) == 1_281_167
    assert len(a.class_names) == 1000
    np.testing.assert_array_equal(a[1_000_007]["image"], b[1_000_007]["image"])
    assert a[0]["image"].shape == (12, 12, 3)
    assert not np.array_equal(a[0]["image"], a[1]["image"])
    assert a[1007]["label"] == a.labels()[1007] == 7
    with pytest.raises(DataError, match="unknown split of synthetic 'val'"):
        load_source(config, "val")
    with pytest.raises(IndexError, match="50000"):
        load_source(config, "test")[50_000]


def test_a_file_that_vanished(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "1.png").write_bytes(b"")
    source = load_source(DataConfig(name=f"folder:{tmp_path}"), "train")
    (tmp_path / "train" / "a" / "1.png").unlink()
    with pytest.raises(ImageError, match=r"cannot read .*1.png: No such file.*it was there when.*Restore or remove"):
        source[0]


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    for name in ("a/deep", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "1.png").write_bytes(b"")
    scandir = os.scandir

    def forbidden(path):
        if str(path).endswith(str(closed)):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    for closed in ("train", "deep"):
        with pytest.raises(DataError, match=f"cannot list the folder .*{closed}: Permission denied; .*Change its"):
            load_source(DataConfig(name=f"folder:{tmp_path}"), "train")
