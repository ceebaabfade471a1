import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_jax.config import DataConfig
from resnet_jax.data import load_source
from resnet_jax.data.transforms import decode
from resnet_jax.errors import ConfigError, DataError

FIXTURES = Path(__file__).parent / "fixtures"
GREY = {"channels": 1, "mean": (0.5,), "std": (0.5,), "image_size": 8, "eval_resize": 8}


def tiny(folder="array_record", name="tfds:tiny_digits", **kwargs):
    return DataConfig(name=name, directory=str(FIXTURES / folder), **(GREY | kwargs))


def pixels(source, index, channels=1):
    """What the batches make of an example."""
    return decode(source[index]["image"], channels, name="an image")


def write_images(root, files):
    for i, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3), (i, 2 * i, 3 * i)).save(root / file)


def test_digits_are_those_of_sklearn():
    from sklearn.datasets import load_digits

    scans, labels = load_digits(return_X_y=True)
    source = load_source(DataConfig(**GREY), "all")
    assert len(source) == 1797
    assert source.class_names == tuple("0123456789")
    for i in (0, 7, 1796):
        example = source[i]
        assert example["image"].shape == (8, 8, 1)
        assert example["image"].dtype == np.uint8
        # 16 levels are told apart and span the whole range of a byte.
        np.testing.assert_array_equal(np.round(example["image"].ravel() * (16 / 255)), scans[i])
        assert example["label"] == labels[i]
    assert max(source[i]["image"].max() for i in range(100)) == 255


def test_digits_split_is_a_stratified_partition():
    splits = {name: load_source(DataConfig(**GREY), name) for name in ("train", "test", "all")}
    images = {name: [s[i]["image"].tobytes() for i in range(len(s))] for name, s in splits.items()}
    counts = {name: np.bincount([s[i]["label"] for i in range(len(s))]) for name, s in splits.items()}
    assert (len(images["train"]), len(images["test"])) == (1437, 360)
    assert sorted(images["train"] + images["test"]) == sorted(images["all"])
    assert len(set(images["all"])) == 1797, "a scan occurs twice, so the test split may leak into training"
    np.testing.assert_allclose(counts["test"], counts["all"] / 5, atol=1)


def test_digits_in_colour_repeat_the_grey():
    image = pixels(load_source(DataConfig(), "train"), 0, channels=3)
    assert image.shape == (8, 8, 3)
    assert (image == image[..., :1]).all()


@pytest.mark.parametrize("split", ["train", "test"])
def test_folder_lists_what_torchvision_lists(tmp_path, torchvision, split):
    from torchvision.datasets import ImageFolder

    files = ["cat/b.png", "cat/a.JPG", "cat/deep/er/x.webp", "cat/deep/a.bmp", "Dog/1.jpeg", "Dog/10.png", "Dog/2.png"]
    write_images(tmp_path / "train", files)
    write_images(tmp_path / "test", files[1:5])
    write_images(tmp_path, [f"elsewhere/{name}/1.png" for name in "hgfedcba"])
    for name in "hgfedcba":
        (tmp_path / split / "cat" / name).symlink_to(tmp_path / "elsewhere" / name)
    (tmp_path / split / "cat" / "notes.txt").write_text("not an image")
    source = load_source(DataConfig(name=f"folder:{tmp_path}"), split)
    expected = ImageFolder(tmp_path / split)
    assert list(source.class_names) == expected.classes
    assert len(source) == len(expected)
    for i, (image, label) in enumerate(expected):
        np.testing.assert_array_equal(pixels(source, i, channels=3), np.asarray(image))
        assert source[i]["label"] == label


def test_folder_reads_gif_and_grey(tmp_path):
    write_images(tmp_path / "train", ["a/1.gif", "b/1.png"])
    source = load_source(DataConfig(name=f"folder:{tmp_path}", **GREY), "train")
    assert pixels(source, 0).shape == (3, 4, 1)


def test_folder_refuses_what_it_cannot_label(tmp_path):
    config = DataConfig(name=f"folder:{tmp_path}")
    with pytest.raises(DataError, match=r"is not a folder; .*Correct `folder:PATH`"):
        load_source(DataConfig(name="folder:/no/such/place"), "train")
    write_images(tmp_path / "train", ["a/1.png", "b/1.png"])
    with pytest.raises(DataError, match="unknown split of folder:.* 'trian'. Did you mean 'train'"):
        load_source(config, "trian")
    write_images(tmp_path / "test", ["b/1.png", "c/1.png"])
    for split in ("train", "test"):
        with pytest.raises(DataError, match=r"the classes of .* differ: .*\['[ac]'\], .*\['[ac]'\].*Rename or remove"):
            load_source(config, split)
    (tmp_path / "train" / "a" / "1.png").unlink()
    with pytest.raises(DataError, match="1 class folders of .*train hold no image: a; .*Fill or remove"):
        load_source(config, "train")
    (tmp_path / "val").mkdir()
    with pytest.raises(DataError, match="val holds no class folder"):
        load_source(config, "val")


@pytest.mark.parametrize(("name", "hint"), [("digit", "Did you mean 'digits'"), ("tfds:", "Did you mean 'tfds:NAME'")])
def test_unknown_names_are_refused(name, hint):
    with pytest.raises(DataError, match=f"unknown data set '{name}'. {hint}"):
        load_source(DataConfig(name=name), "train")


def test_unknown_split_of_digits():
    with pytest.raises(DataError, match="unknown split of digits 'tests'. Did you mean 'test'"):
        load_source(DataConfig(), "tests")


@pytest.mark.parametrize(("split", "first", "count"), [("train", 0, 20), ("test", 2, 10)])
def test_tfds_holds_the_digits_it_was_made_from(split, first, count):
    source = load_source(tiny(), split)
    digits = load_source(DataConfig(**GREY), "all")
    by_class = [[digits[i]["image"] for i in range(1797) if digits[i]["label"] == label][:3] for label in range(10)]
    expected = sorted((label, by_class[label][first + i].tobytes()) for label in range(10) for i in range(count // 10))
    assert len(source) == count
    assert source.class_names == tuple(f"digit_{i}" for i in range(10))
    assert sorted((source[i]["label"], pixels(source, i).tobytes()) for i in range(count)) == expected
    assert pixels(source, 0, channels=3).shape == (8, 8, 3)


def test_tfds_slices_of_splits():
    assert len(load_source(tiny(), "train[:25%]")) == 5


def test_a_part_of_a_split_is_its_examples_with_these_numbers():
    config = DataConfig(name="digits", channels=1, mean=(0.5,), std=(0.5,))
    whole = load_source(config, "train")
    for split, numbers in (
        ("train[:100]", range(100)),
        ("train[1000:]", range(1000, 1437)),
        ("train[7:9]", range(7, 9)),
    ):
        part = load_source(config, split)
        assert len(part) == len(numbers)
        np.testing.assert_array_equal(part[0]["image"], whole[numbers[0]]["image"])
        np.testing.assert_array_equal(part.labels(), whole.labels()[numbers])
        assert part.class_names == whole.class_names
    with pytest.raises(
        DataError, match=r"train\[2000:\] of digits holds nothing: train has 1,437 examples; name others"
    ):
        load_source(config, "train[2000:]")


def test_a_part_of_a_folder_that_is_held_out(tmp_path):
    """The splits are files by their names, so the names in a config must not be those with brackets."""
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for number in range(10):
            Image.new("L", (4, 4), number).save(tmp_path / label / f"{number}.png")
    config = DataConfig(name=f"folder:{tmp_path}", holdout=0.2, train_split="train[:5]", eval_split="test[:2]")
    assert (len(load_source(config, config.train_split)), len(load_source(config, config.eval_split))) == (5, 2)
    assert len(load_source(config, "train")) == 16


def test_tfds_is_read_without_tensorflow():
    config = f"DataConfig(name='tfds:tiny_digits', directory={str(FIXTURES / 'array_record')!r})"
    code = (
        "import sys; from resnet_jax.config import DataConfig; from resnet_jax.data import load_source\n"
        f"source = load_source({config}, 'test')\n"
        "print(sum(source[i]['label'] for i in range(len(source))))\n"
        "assert not {'tensorflow', 'torch'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "45"


def test_tfds_refuses_what_it_cannot_read():
    build = r"python -m resnet_jax data prepare .* --directory .*"
    with pytest.raises(DataError, match=f"prepared as tfrecord, .* must be array_record. Delete it .*{build}tfrecord`"):
        load_source(tiny("tfrecord"), "train")
    with pytest.raises(DataError, match=f"tfds:tiny_digit is not known to TFDS and not prepared in .*{build}"):
        load_source(tiny(name="tfds:tiny_digit"), "train")
    with pytest.raises(DataError, match=f"tfds:cifar10 is not prepared in .*{build}"):
        load_source(tiny(name="tfds:cifar10"), "train")
    with pytest.raises(DataError, match=r"no split 'trian' .*must be one of train, test, or a slice"):
        load_source(tiny(), "trian")
    with pytest.raises(DataError, match=r"no split 'train\[:0\]' "):
        load_source(tiny(), "train[:0]")


def prepared_copy(folder, edits):
    """A copy of the fixture in which strings of the description files are replaced."""
    shutil.copytree(FIXTURES / "array_record", folder)
    for file in folder.rglob("*.json"):
        text = file.read_text()
        for old, new in edits.items():
            text = text.replace(old, new)
        file.write_text(text)
    return DataConfig(name="tfds:tiny_digits", directory=str(folder), **GREY)


def held_out(folder, split, holdout=0.2):
    source = load_source(DataConfig(name=f"folder:{folder}", holdout=holdout), split)
    assert source.splits == ("train", "test")
    assert source.class_names == ("a", "b", "c")
    assert [Path(source[i]["name"]).parent.name for i in range(len(source))] == ["abc"[x] for x in source.labels()]
    return {source[i]["name"] for i in range(len(source))}


def test_a_share_of_every_class_is_held_out_and_always_the_same(tmp_path):
    write_images(tmp_path, [f"a/{i}.png" for i in range(20)] + [f"b/{i}.png" for i in range(3)] + ["c/0.png"])
    everything = {str(path) for path in tmp_path.rglob("*.png")}
    train, test = held_out(tmp_path, "train"), held_out(tmp_path, "test")
    assert train | test == everything
    assert not train & test
    assert [sum(f"/{name}/" in path for path in test) for name in "abc"] == [4, 1, 0]
    moved = Path(shutil.copytree(tmp_path, tmp_path.parent / "moved"))
    assert {path.replace(str(moved), str(tmp_path)) for path in held_out(moved, "test")} == test
    write_images(tmp_path, ["a/new.png"])
    assert held_out(tmp_path, "test") - {str(tmp_path / "a" / "new.png")} <= test
    with pytest.raises(DataError, match="unknown split of folder:.* with data.holdout 'val'"):
        load_source(DataConfig(name=f"folder:{tmp_path}", holdout=0.2), "val")
    with pytest.raises(ConfigError, match="holdout = 0.2 is for folders of images, and digits has splits; set it to 0"):
        DataConfig(name="digits", holdout=0.2)
    with pytest.raises(DataError, match=r"unknown split .*hold images: .*add --data.holdout 0.1"):
        load_source(DataConfig(name=f"folder:{tmp_path}"), "train")


LEFT_BY_PROGRAMS = [
    *("train/a/.ipynb_checkpoints/1-checkpoint.png", "train/.ipynb_checkpoints/1.png", ".git/objects/1.png"),
    *("train/a/._1.png", "train/a/Thumbs.db", "train/b/desktop.ini", "__MACOSX/train/a/1.png", "train/@eaDir/1.png"),
    *("train/b/.DS_Store", ".ipynb_checkpoints/a/1.png", "train/a/deep/.hidden/1.png"),
]


def test_what_programs_leave_behind_is_no_data(tmp_path, caplog):
    write_images(tmp_path, ["train/a/1.png", "train/a/deep/2.png", "train/b/1.png", "test/a/1.png", "test/b/1.png"])
    for name in LEFT_BY_PROGRAMS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    source = load_source(DataConfig(name=f"folder:{tmp_path}"), "train")
    assert source.class_names == ("a", "b")
    assert source.splits == ("test", "train")
    assert [Path(source[i]["name"]).name for i in range(len(source))] == ["1.png", "2.png", "1.png"]
    assert not caplog.records


def test_every_ending_of_pillows_is_read_and_others_are_counted(tmp_path, caplog):
    endings = ["tif", "TIFF", "ppm", "pgm", "avif", "jp2", "jfif", "tga", "png", "jpe", "bmp", "webp", "gif"]
    write_images(tmp_path, [f"train/a/{i}.{ending}" for i, ending in enumerate(endings) if ending != "pgm"])
    Image.new("L", (4, 3), 9).save(tmp_path / "train" / "a" / "9.pgm")
    for name in ("1.heic", "2.HEIC", "notes.txt", "README"):
        (tmp_path / "train" / "a" / name).write_bytes(b"x")
    source = load_source(DataConfig(name=f"folder:{tmp_path}"), "train")
    assert len(source) == len(endings)
    for i in range(len(source)):
        assert pixels(source, i, channels=3).shape == (3, 4, 3)
    assert "files that are no images are not read (4 files: 2 .heic, 1 without an ending, 1 .txt)" in caplog.text


def test_a_link_that_leads_back_up_multiplies_nothing(tmp_path):
    write_images(tmp_path, ["train/a/1.png", "train/a/deep/2.png", "train/b/1.png"])
    (tmp_path / "train" / "a" / "deep" / "up").symlink_to(tmp_path / "train" / "a")
    (tmp_path / "train" / "a" / "deep" / "root").symlink_to(tmp_path)
    (tmp_path / "train" / "a" / "again").symlink_to(tmp_path / "train" / "a" / "deep")
    (tmp_path / "elsewhere").mkdir()
    write_images(tmp_path, ["elsewhere/3.png"])
    (tmp_path / "train" / "b" / "linked").symlink_to(tmp_path / "elsewhere")
    source = load_source(DataConfig(name=f"folder:{tmp_path}"), "train")
    assert [Path(source[i]["name"]).name for i in range(len(source))] == ["1.png", "2.png", "1.png", "3.png"]
    (tmp_path / "train" / "all").symlink_to(tmp_path / "train")
    with pytest.raises(DataError, match="1 class folders of .* hold no image: all"):
        load_source(DataConfig(name=f"folder:{tmp_path}"), "train")


def test_tfds_in_a_folder_of_any_name(tmp_path):
    shutil.copytree(FIXTURES / "array_record", tmp_path / "a*b {x}")
    source = load_source(tiny(tmp_path / "a*b {x}"), "train")
    np.testing.assert_array_equal(pixels(source, 7), pixels(load_source(tiny(), "train"), 7))
    with pytest.raises(DataError, match=r"reads the brackets of .*lr\[0.1\] as a pattern .*Rename it, or link to it"):
        load_source(tiny(tmp_path / "lr[0.1]"), "train")


@pytest.mark.parametrize("damage", ["gone", "another", "cut short"])
def test_tfds_files_hold_what_the_data_set_promises(tmp_path, damage):
    folder = Path(shutil.copytree(FIXTURES / "array_record", tmp_path / "data"))
    (train,) = folder.rglob("*train.array_record*")
    (test,) = folder.rglob("*test.array_record*")
    if damage == "gone":
        train.unlink()
    else:
        train.write_bytes(test.read_bytes() if damage == "another" else train.read_bytes()[:100])
    with pytest.raises(
        DataError, match=r"train.array_record-\S* holds (0|10) examples, .* promises 20; |cannot read .*train"
    ):
        load_source(tiny(folder), "train")
    assert len(load_source(tiny(folder), "test")) == 10


def test_tfds_refuses_other_tasks(tmp_path):
    config = prepared_copy(tmp_path / "data", {'"label": {': '"digit": {'})
    with pytest.raises(DataError, match=r"no image classification data set: .*but has digit \(ClassLabel\), file_name"):
        load_source(config, "train")


def test_tfds_refuses_labels_without_a_class(tmp_path):
    config = prepared_copy(tmp_path / "data", {'"numClasses": "10"': '"numClasses": "5"'})
    next(iter((tmp_path / "data").rglob("label.labels.txt"))).write_text("\n".join("abcde"))
    source = load_source(config, "train")
    with pytest.raises(DataError, match=r"example \d+ of tfds:tiny_digits, split 'train' has label [5-9]; .*0\.\.4"):
        [source[i] for i in range(len(source))]
