"""`pairs:` and `voc:`: layouts, what is missing, and the commands that look at them."""

import importlib.util
import json
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_jax.cli import main
from resnet_jax.config import DataConfig
from resnet_jax.data import fingerprint, load_source
from resnet_jax.data.masks import voc_colours
from resnet_jax.data.sources.voc import CLASS_NAMES
from resnet_jax.data.transforms import decode
from resnet_jax.errors import DataError, ImageError

ROOT = Path(__file__).parent.parent.parent
LAYOUTS = ("{split}/{part}", "{part}/{split}")


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write(root, layout=LAYOUTS[0], *, splits=("train", "test"), count=3, suffix=".jpg", names="ground\ncrack\nsky\n"):
    """Images of 20 x 30 pixels, and masks of 0, 1, 2 and 255."""
    for number, split in enumerate(splits):
        for i in range(count):
            rng = np.random.default_rng([number, i])
            folders = [root / layout.format(split=split, part=part) for part in ("images", "masks")]
            save(folders[0] / f"{i}{suffix}", rng.integers(0, 256, (20, 30, 3), np.uint8))
            save(folders[1] / f"{i}.png", np.array([0, 1, 2, 255], np.uint8)[rng.integers(0, 4, (20, 30))])
    if names:
        (root / "classes.txt").write_text(names)
    return root


def load(root, split="train", kind="pairs", **options):
    return load_source(DataConfig(name=f"{kind}:{root}", **options), split)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("suffix", [".jpg", ".PNG", ".tif"])
def test_both_layouts(tmp_path, layout, suffix):
    source = load(write(tmp_path, layout, suffix=suffix), "test")
    assert len(source) == 3
    assert source.class_names == ("ground", "crack", "sky")
    assert sorted(source.splits) == ["test", "train"]
    for i in range(3):
        rng = np.random.default_rng([1, i])
        image = rng.integers(0, 256, (20, 30, 3), np.uint8)
        example = source[i]
        assert example["name"].endswith(f"{i}{suffix}")
        pixels = decode(example["image"], 3, name="x")
        assert pixels.shape == (20, 30, 3)
        if suffix != ".jpg":
            np.testing.assert_array_equal(pixels, image)
        np.testing.assert_array_equal(example["mask"], np.array([0, 1, 2, 255])[rng.integers(0, 4, (20, 30))])
    with pytest.raises(DataError, match="no single label, as each of its pixels has a class; .* such as folder:PATH"):
        source.labels()
    assert fingerprint(source) != fingerprint(load(tmp_path, "train"))


def test_folders_below_and_files_that_are_no_data(tmp_path):
    write(tmp_path)
    for part, suffix in (("images", ".jpg"), ("masks", ".png")):
        save(tmp_path / "train" / part / "more" / f"0{suffix}", np.zeros((4, 5), np.uint8))
        (tmp_path / "train" / part / ".hidden.png").write_bytes(b"x")
        (tmp_path / "train" / part / "notes.txt").write_text("x")
    (tmp_path / "raw").mkdir()
    source = load(tmp_path)
    assert [source[i]["mask"].shape for i in range(4)] == [(20, 30)] * 3 + [(4, 5)]
    assert set(source.splits) == {"train", "test"}


def test_classes_are_those_of_the_training_masks(tmp_path, caplog):
    write(tmp_path, names=None)
    for split in ("train", "test"):
        assert load(tmp_path, split).class_names == ("0", "1", "2")
    save(tmp_path / "test" / "masks" / "1.png", np.full((20, 30), 7, np.uint8))
    source = load(tmp_path, "test")
    with pytest.raises(ImageError, match=r"test/masks/1.png holds the value 7 \(600 .* must be 0..2.*name all classes"):
        source[1]
    assert load(tmp_path, "test", train_split="test").class_names == tuple("01234567")


def test_what_is_alone_is_listed(tmp_path):
    write(tmp_path, count=9)
    for i in range(7):
        (tmp_path / "train" / "masks" / f"{i}.png").unlink()
    save(tmp_path / "train" / "masks" / "extra.png", np.zeros((2, 2), np.uint8))
    text = (
        r"7 images have no mask: .*images/0.jpg, .*4.jpg and 2 more; 1 masks have no image: .*extra.png. "
        "Each image must have a mask, NAME.png for NAME.jpg"
    )
    with pytest.raises(DataError, match=text):
        load(tmp_path)
    assert len(load(tmp_path, "test", train_split="test")) == 9


def test_what_folders_must_hold(tmp_path):
    with pytest.raises(DataError, match="absent is not a folder; .*PATH/SPLIT/images/NAME.jpg .*or PATH/images/SPLIT"):
        load(tmp_path / "absent")
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match="holds photos, and no split with images and masks; it must hold PATH/SPLIT"):
        load(tmp_path)
    write(tmp_path)
    with pytest.raises(DataError, match="unknown split of pairs:.* 'trian'. Did you mean 'train'"):
        load(tmp_path, "trian")
    save(tmp_path / "train" / "images" / "0.bmp", np.zeros((2, 2), np.uint8))
    with pytest.raises(DataError, match="0.bmp and .*0.jpg differ only in their endings; .* Rename or remove one"):
        load(tmp_path)
    (tmp_path / "train" / "images" / "0.bmp").unlink()
    save(tmp_path / "train" / "masks" / "3.jpg", np.zeros((2, 2), np.uint8))
    with pytest.raises(DataError, match="1 masks have no ending of .png, .*: .*3.jpg; .*JPEG, change the values"):
        load(tmp_path)
    (tmp_path / "train" / "masks" / "3.jpg").unlink()
    for part in ("images", "masks"):
        (tmp_path / "empty" / part).mkdir(parents=True)
    with pytest.raises(DataError, match="empty/images holds no image; it must hold NAME.jpg .*remove the split"):
        load(tmp_path, "empty")


def test_a_file_that_vanishes(tmp_path):
    source = load(write(tmp_path))
    (tmp_path / "train" / "masks" / "1.png").unlink()
    with pytest.raises(ImageError, match="cannot read .*masks/1.png: No such file.*it was there when the folder was"):
        source[1]


def write_voc(root, below="VOCdevkit/VOC2012"):
    folder = root / below
    for number in range(4):
        rng = np.random.default_rng(number)
        save(folder / "JPEGImages" / f"2007_{number}.jpg", rng.integers(0, 256, (20 + number, 30, 3), np.uint8))
        mask = Image.fromarray(np.array([0, 5, 20, 255], np.uint8)[rng.integers(0, 4, (20 + number, 30))])
        mask.putpalette([value for colour in voc_colours() for value in colour])
        (folder / "SegmentationClass").mkdir(exist_ok=True)
        mask.save(folder / "SegmentationClass" / f"2007_{number}.png")
    save(folder / "JPEGImages" / "without_mask.jpg", np.zeros((2, 2), np.uint8))
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, numbers in (("train", (2, 0)), ("val", (1, 3)), ("trainval", (2, 0, 1, 3))):
        (lists / f"{split}.txt").write_text("".join(f"2007_{i}\n" for i in numbers))
    return root


@pytest.mark.parametrize("below", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_pascal_voc(tmp_path, below):
    source = load(write_voc(tmp_path, below), "train", "voc")
    assert source.class_names == CLASS_NAMES
    assert (len(source.class_names), source.class_names[1], source.class_names[20]) == (21, "aeroplane", "tvmonitor")
    assert source.splits == ("train", "trainval", "val")
    assert [len(load(tmp_path, split, "voc")) for split in source.splits] == [2, 4, 2]
    assert source[0]["name"].endswith("2007_2.jpg"), "the order of the list"
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 30, 3), np.uint8)
    np.testing.assert_array_equal(source[1]["mask"], np.array([0, 5, 20, 255])[rng.integers(0, 4, image.shape[:2])])


def test_pascal_voc_refuses(tmp_path):
    with pytest.raises(
        DataError, match="has not the layout of Pascal VOC; it must hold JPEGImages, .*VOCdevkit/VOC2012"
    ):
        load(tmp_path, "train", "voc")
    lists = write_voc(tmp_path) / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    with pytest.raises(DataError, match="unknown split of voc:.* 'vall'. Did you mean 'val'"):
        load(tmp_path, "vall", "voc")
    (lists / "train.txt").write_text("2007_0\nwithout_mask\n2007_9\n")
    text = "2 images have no mask: .*2007_9.jpg, .*without_mask.jpg; 1 masks have no image: .*2007_9.png"
    with pytest.raises(DataError, match=text):
        load(tmp_path, "train", "voc")
    (lists / "val.txt").write_text("\n")
    with pytest.raises(DataError, match="val.txt names no image; .* Copy it again"):
        load(tmp_path, "val", "voc")


def said(capsys, *words, status=0):
    if status:
        with pytest.raises(SystemExit, match=str(status)):
            main(["data", *words])
    else:
        main(["data", *words])
    return capsys.readouterr().out


def test_data_check_finds_faults_of_masks(tmp_path, capsys):
    name = f"pairs:{write(tmp_path)}"
    assert "split train: 3 images in 3 classes\n  shorter side: 20 to 20" in said(capsys, "check", name)
    save(tmp_path / "train" / "masks" / "0.png", np.full((20, 30), 3, np.uint8))
    save(tmp_path / "train" / "masks" / "1.png", np.zeros((30, 20), np.uint8))
    save(tmp_path / "train" / "masks" / "2.png", np.ones((20, 30), np.uint8))
    out = said(capsys, "check", name, status=1)
    assert "2 cannot be read:" in out
    assert "masks/0.png holds the value 3 (600 pixels are too high)" in out
    assert "1.jpg has 30 x 20 pixels and the image 20 x 30" in out
    with pytest.raises(SystemExit, match="--sheet = x.png draws images by their labels, .* data show pairs:.* --out x"):
        main(["data", "check", name, "--sheet", "x.png"])
    assert "3 classes have fewer than 10 images:\n    ground: 0\n    sky: 0\n    crack: 1" in out


def test_data_check_does_not_take_trainval_for_a_leak(tmp_path, capsys):
    out = said(capsys, "check", f"voc:{write_voc(tmp_path)}")
    assert "trainval: 4 images in 21 classes" in out
    assert "in both" not in out
    lists = tmp_path / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    (lists / "val.txt").write_text("2007_2\n")
    assert "1 images are in both train and val; leave them out of one" in said(
        capsys, "check", f"voc:{tmp_path}", status=1
    )


def test_data_info_counts_pixels(tmp_path, capsys):
    write(tmp_path, count=1)
    mask = np.zeros((20, 30), np.uint8)
    mask[:, :9], mask[:5, 9:] = 2, 255
    save(tmp_path / "train" / "masks" / "0.png", mask)
    out = said(capsys, "info", f"pairs:{tmp_path}")
    lines = [line.split() for line in out.splitlines()]
    assert ["│", "train", "│", "1", "│", "3", "│", "17.5", "%", "│"] in lines
    assert [line[:4] for line in lines if line[:1] == ["sky"]][1] == ["sky", "1", "36.36", "%"]
    report = json.loads(said(capsys, "info", f"pairs:{tmp_path}", "--as-json"))
    assert report["splits"]["train"] == {
        "images": 1,
        "classes": {"ground": 1, "crack": 0, "sky": 1},
        "pixels": {"ground": 315, "crack": 0, "sky": 180},
        "not_counted": 105,
    }


def test_data_info_of_many_classes_shows_the_largest(tmp_path, capsys):
    write(tmp_path, splits=("train",), count=1, names="".join(f"kind{i}\n" for i in range(90)))
    save(tmp_path / "train" / "masks" / "0.png", np.arange(600, dtype=np.uint16).reshape(20, 30) % 88)
    out = said(capsys, "info", f"pairs:{tmp_path}")
    assert "The 50 classes of 90 with the most pixels; --all-classes shows all." in out
    assert "kind89" not in out
    assert "kind89" in said(capsys, "info", f"pairs:{tmp_path}", "--all-classes")


def test_masks_are_drawn_with_the_names_of_their_classes(tmp_path, capsys):
    write(tmp_path, count=1)
    save(tmp_path / "train" / "images" / "0.jpg", np.full((20, 30, 3), 100, np.uint8))
    mask = np.zeros((20, 30), np.uint8)
    mask[2:18, 2:14], mask[:, 26:] = 1, 255
    save(tmp_path / "train" / "masks" / "0.png", mask)
    out = tmp_path / "x.png"
    assert "1 examples of pairs:" in said(capsys, "show", f"pairs:{tmp_path}", "--out", str(out))
    with Image.open(out) as file:
        drawn = np.asarray(file.convert("RGB")).astype(int)

    def near(colour):
        return (np.abs(drawn - colour).max(axis=2) < 6).sum()

    assert near((100, 100, 100)) > 1000, "background as it is"
    assert near((162, 101, 111)) > 1000, "class 1: 0.6 of its colour"
    assert near((193, 193, 193)) > 300, "not counted: 0.6 of white"
    assert near((204, 102, 119)) > 100, "the label behind the name"
    save(tmp_path / "train" / "masks" / "0.png", mask[:, :20])
    with pytest.raises(SystemExit, match="the mask of .*0.jpg has 20 x 20 pixels and the image 20 x 30"):
        main(["data", "show", f"pairs:{tmp_path}", "--out", str(out)])


def test_nuclei_become_a_data_set(tmp_path, capsys):
    """examples/nuclei.py, on a package with made-up images of the names and kinds that stardist ships."""
    spec = importlib.util.spec_from_file_location("nuclei", ROOT / "examples" / "nuclei.py")
    nuclei = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(nuclei)
    rng = np.random.default_rng(0)
    arrays = {
        "image": rng.integers(0, 236, (512, 512), np.uint16),
        "instances": rng.integers(0, 3, (512, 512)).astype(np.uint16) * 90,
    }
    with zipfile.ZipFile(tmp_path / "stardist-1-any.whl", "w") as wheel:
        for name, path in nuclei.FILES.items():
            save(tmp_path / "unpacked" / path, arrays[name])
            wheel.write(tmp_path / "unpacked" / path, path)
    for package in (tmp_path / "stardist-1-any.whl", tmp_path / "unpacked"):
        out = tmp_path / package.stem
        assert nuclei.main(out / "nuclei", package) == {"train": 12, "test": 4}
        squares = [load(out / "nuclei", split) for split in ("train", "test")]
        assert squares[0].class_names == ("background", "nucleus")
        for source, left in ((squares[0], 0), (squares[1], 384)):
            image = decode(source[0]["image"], 1, name="x")[..., 0]
            np.testing.assert_array_equal(image, arrays["image"][:128, left : left + 128])
            np.testing.assert_array_equal(source[0]["mask"], arrays["instances"][:128, left : left + 128] > 0)
    if find_spec("stardist") is None:
        with pytest.raises(SystemExit, match="stardist is not installed; give its wheel: pip download stardist"):
            nuclei.main(tmp_path / "x")
