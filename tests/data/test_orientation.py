"""EXIF's orientation in every place where images are decoded, beside PIL.ImageOps.exif_transpose."""

import io
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import resnet_jax as rn
from resnet_jax import AugmentConfig, DataConfig, cli
from resnet_jax.commands import data_show
from resnet_jax.data import eval_batches, load_source, train_batches
from resnet_jax.data.check import samples
from resnet_jax.data.decode import decode_image
from resnet_jax.data.orientation import orientation, stored_box, upright, upright_shape
from resnet_jax.data.sources import write_records
from resnet_jax.data.transforms import decode, decode_random_crop, load_image, random_resized_crop
from resnet_jax.errors import ConfigError, DataError
from resnet_jax.run.network import Network
from resnet_jax.run.predictor import load_predictor, predictor_of
from resnet_jax.weights import Preset, preprocess

CONFIGS = Path(__file__).parents[2] / "configs"
ORIENTATIONS = range(1, 9)
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")


def picture(size=(37, 26), seed=0):
    """Smooth, so that JPEG changes little, and in no part like its mirror image."""
    rough = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC)


def encoded(image, number, format="JPEG"):
    exif = Image.Exif()
    exif[0x0112] = number
    buffer = io.BytesIO()
    image.save(buffer, format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))
    return buffer.getvalue()


def transposed(data):
    """The oracle."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("number", ORIENTATIONS)
def test_images_are_as_pillow_turns_them(number, format, tmp_path):
    data = encoded(picture(), number, format)
    right = transposed(data)
    np.testing.assert_array_equal(decode(data, 3, name="x", exif=True), right)
    np.testing.assert_array_equal(decode_image(data, 3, exif=True), right)
    (tmp_path / "x").write_bytes(data)
    preset = Preset(resize=20, crop=16)
    for image in (data, tmp_path / "x", Image.open(tmp_path / "x")):
        np.testing.assert_array_equal(preprocess(image, replace(preset, exif=True)), preprocess(right, preset))
    if number > 1 and format != "TIFF":
        assert not np.array_equal(decode(data, 3, name="x")[:20, :20], right[:20, :20]), "ignored unless asked for"


@pytest.mark.parametrize("number", ORIENTATIONS)
def test_a_box_of_the_upright_image_is_found_in_the_stored_one(number):
    stored = np.random.default_rng(0).integers(0, 256, (11, 7, 3), np.uint8)
    turned = upright(stored, number)
    assert upright_shape(11, 7, number) == turned.shape[:2]
    for top, left, height, width in ((0, 0, 3, 2), (2, 1, 4, 5), (turned.shape[0] - 2, turned.shape[1] - 3, 2, 3)):
        y, x, h, w = stored_box((top, left, height, width), 11, 7, number)
        np.testing.assert_array_equal(
            upright(stored[y : y + h, x : x + w], number), turned[top : top + height, left : left + width]
        )


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("number", ORIENTATIONS)
def test_the_fast_crops_of_jpegs_are_those_of_the_upright_image(number, progressive):
    """Decoded at a half or less and with fast methods, so nearly: crops of a wrong part differ by 50 and more."""
    exif = Image.Exif()
    exif[0x0112] = number
    buffer = io.BytesIO()
    picture((420, 300)).save(buffer, "JPEG", quality=97, subsampling=0, exif=exif, progressive=progressive)
    right = transposed(buffer.getvalue())
    for seed in range(4):
        ours = decode_random_crop(
            buffer.getvalue(), np.random.default_rng(seed), 48, 0.08, 3, name="a photo", exif=True
        )
        want = random_resized_crop(right, np.random.default_rng(seed), 48, 0.08)
        assert np.abs(ours.astype(int) - want).mean() < 3


def test_damaged_exif_says_nothing():
    data = encoded(picture(), 6)
    at = data.index(b"Exif\0\0")
    damaged = data[: at + 6] + b"XX" + data[at + 8 :]
    assert orientation(damaged) == 1
    np.testing.assert_array_equal(decode(damaged, 3, name="x", exif=True), decode(damaged, 3, name="x"))
    entry = struct.pack("<H", 0x0112) if b"II*" in data else struct.pack(">H", 0x0112)
    place = data.index(entry, at) + 8
    strange = data[:place] + b"\x00\x63" + data[place + 2 :]
    assert orientation(strange) == 1, "99 is no orientation"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Every orientation once as JPEG and once as PNG, in two classes, upright pictures of the same seeds beside."""
    root = tmp_path_factory.mktemp("photos")
    for number in ORIENTATIONS:
        for name, format in (("a", "JPEG"), ("b", "PNG")):
            (root / "photos" / "train" / name).mkdir(parents=True, exist_ok=True)
            path = root / "photos" / "train" / name / f"{number}.{format.lower()}"
            path.write_bytes(encoded(picture((60, 44), number), number, format))
            (root / "right" / "train" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(transposed(path.read_bytes())).save(root / "right" / "train" / name / f"{number}.png")
    return root


def config_of(root, **options):
    options = {"eval_resize": 36, "image_size": 32, "exif": True, **options}
    return DataConfig(name=f"folder:{root}", eval_split="train", **options)


@pytest.mark.parametrize("crop", [False, True])
def test_batches_are_those_of_upright_files(photos, crop):
    augment = AugmentConfig(random_resized_crop=crop, flip=False)
    ours, right = (config_of(photos / name, augment=augment) for name in ("photos", "right"))
    seen = []
    for config in (ours, right):
        source = load_source(config, "train")
        batches = train_batches(source, config, batch_size=16, seed=3)
        seen.append((next(batches)["image"], next(iter(eval_batches(source, config, batch_size=16)))["image"]))
        batches.close()
    np.testing.assert_array_equal(seen[0][1], seen[1][1])
    # A random crop of a JPEG is decoded with the fast methods, and a PNG exactly.
    assert np.abs(seen[0][0].astype(int) - seen[1][0]).mean() < (3 if crop else 1e-9)


def test_files_are_predicted_and_shown_upright(photos, tmp_path, monkeypatch, capsys):
    ours, right = sorted((photos / "photos").rglob("*.*g")), sorted((photos / "right").rglob("*.png"))
    config = config_of(photos / "photos")
    network = Network("x", rn.create_model("cifar_resnet20"), {}, Preset(resize=36, crop=32), ("a", "b"))
    predictor = predictor_of(network, exif=True)
    for path, other in zip(ours, right, strict=True):
        want = load_image(other, config.preset)
        np.testing.assert_array_equal(load_image(path, config.preset), want)
        np.testing.assert_array_equal(predictor.load(path), want)
    found = samples(load_source(config, "train"), 8, 2, 200, exif=True)
    assert [(one.label, one.name) for one in found] == [(int(p.parent.name == "b"), p.name) for p in ours]
    for one, other in zip(found, right, strict=True):
        np.testing.assert_array_equal(one.pixels, np.asarray(Image.open(other)))

    pictures = []
    for name in ("photos", "right"):
        out = tmp_path / f"{name}.png"
        cli.main(["data", "show", f"folder:{photos / name}", "--out", str(out), "--exif", "--images", "16"])
        with Image.open(out) as file:
            pictures.append(np.asarray(file.convert("RGB"))[60:].astype(int))  # without the title
    assert np.abs(pictures[0] - pictures[1]).mean() < 2, "but for the 256 colours of the file"
    with pytest.raises(DataError, match="--exif is for a data set's name"):
        data_show.data_show(CONFIGS / "digits.py", exif=True)


def test_records_are_upright_or_refused(photos, tmp_path):
    config = config_of(photos / "photos")
    source, right = load_source(config, "train"), load_source(config_of(photos / "right"), "train")
    options = {"short_side": 100, "encoding": "raw"}
    write_records({"train": source}, tmp_path / "stored", **options)
    write_records({"train": source}, tmp_path / "upright", exif=True, **options)
    records = load_source(DataConfig(name=f"records:{tmp_path}/upright", exif=True), "train")
    for i in range(len(right)):
        np.testing.assert_array_equal(records[i]["image"], decode(right[i]["image"], 3, name="x"))
    with pytest.raises(DataError, match=r"stored was written without --exif.*data prepare \.\.\. --exif"):
        load_source(DataConfig(name=f"records:{tmp_path}/stored", exif=True), "train")
    with pytest.raises(DataError, match="begun with other settings"):
        write_records({"train": source}, tmp_path / "stored", exif=True, **options)


def test_a_run_says_itself_whether_photographs_are_turned(monkeypatch, tmp_path):
    class Trained:
        config = rn.Config()

    monkeypatch.setattr("resnet_jax.run.named.load_run", lambda *_: Trained)
    with pytest.raises(ConfigError, match=r"--exif is for weights without a run; .* data.exif = False"):
        load_predictor(str(tmp_path), exif=True)


def test_old_configs_ignore_exif_and_the_one_for_photographs_does_not():
    assert not rn.Config().data.exif
    assert rn.load_config(CONFIGS / "photos.py").data.exif
