"""The commands with a network that names a class for each pixel: masks and overlays, mIoU, and what is refused."""

import io
import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image

import resnet_jax as rn
from resnet_jax import cli
from resnet_jax.analysis.colours import MASK_COLOURS, mask_palette
from resnet_jax.analysis.masks import mask_png, seen_on
from resnet_jax.commands.draw_masks import NAMED, overlay_png
from resnet_jax.commands.evaluate_masks import show_masks
from resnet_jax.config_files import save_config
from resnet_jax.data import load_source, train_batches
from resnet_jax.data.masks import MaskCode, decode_mask
from resnet_jax.data.sources import digit_scenes
from resnet_jax.errors import ConfigError
from resnet_jax.files import open_folder
from resnet_jax.models import create, init
from resnet_jax.run import predictor
from resnet_jax.run.evaluate_network import evaluate_masks
from resnet_jax.run.masks import mask_predictor_of, segmentations
from resnet_jax.run.named import network_of
from resnet_jax.run.network import Network
from resnet_jax.run.predict import CLASS_NAMES, open_checkpoints
from resnet_jax.runtime.mesh import make_mesh
from resnet_jax.tasks import assemble
from resnet_jax.tasks.segment.show import training_batch
from resnet_jax.tasks.table import settled, task_of
from resnet_jax.weights import Preset

pytestmark = pytest.mark.usefixtures("compile_quickly", "short_runs")

NAMES = ("background", *"0123456789")
OPTIONS = (
    *("--model.name", "unet_cifar_resnet8", "--model.width-multiplier", "0.125", "--task.loss", "cross_entropy"),
    *("--batch-size", "8", "--eval-batch-size", "8", "--epochs", "1", "--optim.warmup-epochs", "0"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run as it is saved, with random parameters: training it takes longer than all that is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digit_scenes, "LENGTHS", {"train": 16, "test": 8})
        where = open_folder(tmp_path_factory.mktemp("runs") / "scenes")
        where.mkdir()
        config = settled(rn.load_config("configs/segment/digits.py", OPTIONS))
        task = task_of(config)
        save_config(config, where)
        (where / CLASS_NAMES).write_text(json.dumps(NAMES))
        state = assemble.init_state_of(config, task, make_mesh())(jax.random.key(0))
        with open_checkpoints(config, where, task.best) as checkpoints:
            checkpoints.save(0, state, {}, {task.best: 0.5})
        yield where


@pytest.fixture(scope="module")
def run(folder):
    return rn.load_run(folder)


@pytest.fixture(scope="module")
def numbers(run):
    return rn.evaluate(run.config, run.state)


@pytest.fixture
def photos(tmp_path, folder):
    """Scenes as files: as they are, twice as large, and wide."""
    source = load_source(rn.DataConfig(name="digit_scenes"), "test")
    (tmp_path / "photos").mkdir()
    for i, size in enumerate([(96, 96), (192, 192), (301, 200)]):
        Image.fromarray(source[i]["image"]).resize(size, Image.Resampling.BICUBIC).save(
            tmp_path / "photos" / f"{i}.png"
        )
    return tmp_path / "photos"


def pixels_of(path):
    with Image.open(path) as image:
        return np.asarray(image)


def failure(*words):
    with pytest.raises(SystemExit, match="^error: ") as caught:
        cli.main([str(word) for word in words])
    return str(caught.value)


def test_masks_are_what_the_network_says(run, folder, photos, tmp_path, capsys):
    """Each image alone is the oracle. A batch that is not full is padded; a broken file leaves no gap."""
    (photos / "1a.png").write_bytes((photos / "1.png").read_bytes()[:200])
    out = tmp_path / "deep" / "masks"
    text = failure("predict", folder, photos, "--out", out, "--as-json", "--batch-size", 2)
    assert text.startswith("error: 1 of 4 images:\n  cannot read ")
    assert "1a.png" in text
    shown = capsys.readouterr()
    lines = [json.loads(line) for line in shown.out.splitlines()]
    assert [line["image"] for line in lines] == [str(photos / f"{i}.png") for i in range(3)]
    assert f"The masks and overlays of 3 images are in {out}" in shown.err.replace("\n", "")
    assert {path.name for path in out.iterdir()} == {f"{i}{end}.png" for i in range(3) for end in ("", "_overlay")}
    look = jax.jit(lambda v, x: (rn.predict(run, x), run.model.apply(v, (x / 255 - 0.5) / 0.25, train=False)["out"]))
    for i, line in enumerate(lines):
        photo = Image.open(photos / f"{i}.png").convert("RGB")
        width, height = photo.size
        small = photo.resize((96 * width // height, 96), Image.Resampling.BILINEAR)
        canvas = np.full((96, -(-small.width // 32) * 32, 3), round(255 * 0.5), np.uint8)
        canvas[:, : small.width] = np.asarray(small)
        said, logits = look(run.state.eval_variables, canvas[None])
        said = {name: np.asarray(x)[0, :, : small.width] for name, x in said.items()}
        assert (said["mask"] == np.argmax(logits[0], -1)[:, : small.width]).mean() > 0.999  # ties, to rounding
        enlarged = (np.asarray(Image.fromarray(said[name]).resize(photo.size, 0)) for name in ("mask", "probability"))
        expected, sure = enlarged
        with Image.open(line["mask"]) as mask:
            assert (mask.mode, mask.size) == ("P", photo.size)
            np.testing.assert_array_equal(np.asarray(mask), expected)
            assert mask.getpalette()[:33] == [x for colour in mask_palette(11) for x in colour]
        labels, counts = np.unique(expected, return_counts=True)
        shares = {NAMES[k]: n / expected.size for k, n in zip(labels, counts, strict=True)}
        assert list(line["classes"]) == sorted(shares, key=lambda name: -shares[name])
        for k, name in ((k, NAMES[k]) for k in labels):
            assert line["classes"][name]["share"] == pytest.approx(shares[name], abs=1e-6)
            assert line["classes"][name]["probability"] == pytest.approx(sure[expected == k].mean(), abs=1e-4)


def test_a_table_of_the_largest_classes(folder, photos, tmp_path, capsys):
    cli.main(["predict", str(folder), str(photos / "0.png"), "--out", str(tmp_path / "out"), "--top", "1"])
    out = capsys.readouterr().out
    share = np.bincount(pixels_of(tmp_path / "out" / "0.png").ravel()).max() / 96**2
    assert "unet_cifar_resnet8 after 0 steps" in out
    assert f"{100 * share:.2f} %" in out
    assert out.count(" %") == 2  # of one class: its share and its probability


def test_weights_without_a_run(tmp_path, photos):
    """The size, the colours and the mean are the preset's, and the classes those of the network."""
    model = create.create_model("unet_cifar_resnet8", num_classes=3, width_multiplier=0.25)
    preset = Preset(resize=64, crop=0)
    network = Network("a network", model, init(model, jax.random.key(1)), preset, ("a", "b", "c"))
    found = next(segmentations(mask_predictor_of(network), [photos / "1.png"], 4, broken := []))
    small = Image.open(photos / "1.png").convert("RGB").resize((64, 64), Image.Resampling.BILINEAR)
    images = (np.asarray(small)[None] / 255 - np.array(preset.mean)) / np.array(preset.std)
    logits = jax.jit(lambda v, x: model.apply(v, x, train=False)["out"][0])(
        network.variables, images.astype(np.float32)
    )
    expected = Image.fromarray(np.argmax(np.asarray(logits), -1).astype(np.uint8)).resize((192, 192), 0)
    assert not broken
    assert found.image.shape == (192, 192, 3)
    assert (found.mask == np.asarray(expected)).mean() > 0.999  # ties, to rounding


def test_colours_of_masks():
    assert ["#{:02x}{:02x}{:02x}".format(*colour) for colour in mask_palette(11)] == ["#000000", *MASK_COLOURS]
    assert len(set(mask_palette(31))) == 31
    assert len(mask_palette(255)) == 255


@pytest.mark.parametrize(("shape", "drawn"), [((96, 80), (384, 320)), ((1500, 3000), (600, 1200))])
def test_overlay(shape, drawn):
    """Every pixel of the picture: 60 % of the class's colour, and nothing over the background."""
    image = np.full((*shape, 3), 200, np.uint8)
    mask = np.zeros(shape, np.uint8)
    mask[:, shape[1] // 2 :] = 2
    content = overlay_png(image, mask, seen_on(mask, np.ones(shape, np.float32)), ("$a", "b", "\udcff"))
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    left = (pixels.shape[1] - drawn[1]) // 2
    part = pixels[8 : 8 + drawn[0], left : left + drawn[1]]
    colour = np.round(0.4 * 200 + 0.6 * np.array(mask_palette(3)[2]))
    assert (part[:, : drawn[1] // 2] == 200).all()
    assert (part[:, drawn[1] // 2 :] == colour).all()
    assert (pixels[8 + drawn[0] :] == mask_palette(3)[2]).all(-1).any(), "the legend shows the colour"


def test_a_legend_names_the_largest_of_many_classes(monkeypatch):
    texts = []
    monkeypatch.setattr("matplotlib.axes.Axes.text", lambda axes, x, y, text, **_: texts.append(text))
    mask = np.repeat(np.arange(100, dtype=np.uint8), np.arange(1, 101))[None]
    seen = seen_on(mask, np.ones(mask.shape, np.float32))
    assert [one.label for one in seen] == list(range(99, -1, -1))
    overlay_png(np.zeros((*mask.shape, 1), np.uint8), mask, seen, [f"class {i}" for i in range(100)])
    assert len(texts) == NAMED + 1
    assert (texts[0], texts[-1]) == ("class 99: 2.0 %", "and 76 more")


def test_a_written_mask_is_read_as_a_mask(tmp_path):
    """255 classes fit; the values are the classes."""
    mask = np.random.default_rng(0).integers(0, 255, (9, 13), np.uint8)
    (tmp_path / "mask.png").write_bytes(mask_png(mask, 255))
    code = MaskCode(255)
    np.testing.assert_array_equal(decode_mask((tmp_path / "mask.png").read_bytes(), code, name="mask"), mask)


def test_evaluate(numbers, folder, capsys):
    assert {"loss", "miou", "pixel_accuracy", "iou/background", "count"} <= numbers.keys()
    cli.main(["evaluate", str(folder), "--as-json"])
    assert json.loads(capsys.readouterr().out) == pytest.approx({"step": 0, **numbers}, rel=1e-5)
    cli.main(["evaluate", str(folder), "--per-class"])
    whole, classes = capsys.readouterr().out.split("IoU by class")
    assert f"{100 * numbers['miou']:.2f} %" in whole
    assert f"{100 * numbers['pixel_accuracy']:.2f} %" in whole
    rows = [line.split("│")[1:3] for line in classes.splitlines() if line.startswith("│")]
    iou = [float(value.split()[0]) for _, value in rows]
    assert iou == sorted(iou)
    assert {name.strip() for name, _ in rows} == {key[4:] for key in numbers if key.startswith("iou/")}


def test_several_evaluations_have_a_row_each(capsys):
    numbers = {"miou": 0.25, "pixel_accuracy": 0.5, "loss": 1.0, "iou/dog": 0.25, "count": 3}
    both = {f"{name}/{key}": value for name in ("day", "night") for key, value in numbers.items()}
    show_masks(both, ["day", "night"], title="t", note="", step=1, per_class=True, as_json=False)
    out = capsys.readouterr().out
    assert [line.split()[1] for line in out.splitlines() if "50.00 %" in line] == ["day", "night"]
    assert out.count("dog") == 2
    assert "IoU by class, night" in out


def test_evaluate_weights_without_a_run(run, numbers):
    """As the run's own evaluation, since its weights and its preparation of images are the same."""
    network, data = network_of(run), replace(run.config.data, holdout=0.0)
    assert evaluate_masks(network, data, 3) == pytest.approx(numbers, rel=1e-5)
    others = replace(network, class_names=(NAMES[1], NAMES[0], *NAMES[2:]))
    with pytest.raises(ConfigError, match="classes of digit_scenes are not in the network's order: 0, background, 1"):
        evaluate_masks(others, data, 3)
    with pytest.raises(ConfigError, match="network has 3 classes and digit_scenes has 11"):
        evaluate_masks(replace(network, class_names=("a", "b", "c")), data, 3)
    with pytest.raises(ConfigError, match="data.name = digits gives no mask"):
        evaluate_masks(network, replace(data, name="digits"), 3)


def test_data_show_draws_the_batch_of_a_step(run, folder, tmp_path, capsys):
    """What the run's data gives for its second update."""
    batch = training_batch(run.config, 2)
    source = load_source(run.config.data, "train")
    batches = train_batches(source, run.config.data, batch_size=8, seed=0, fill=run.task.fills[0])
    rows = [next(batches), next(batches)][1]
    batches.close()
    np.testing.assert_array_equal(batch.masks, rows["mask"])
    np.testing.assert_allclose(batch.images, rows["image"] / 255, atol=1e-6)
    assert batch.class_names == NAMES
    options = ["--step", "2", "--images", "3", "--out", str(tmp_path / "grid.png"), "--", *OPTIONS]
    cli.main(["data", "show", "configs/segment/digits.py", *options])
    assert "3 of the 8 images of step 2 are in" in capsys.readouterr().out
    assert len(np.unique(pixels_of(tmp_path / "grid.png"))) > 100
    options = ["--out", tmp_path / "x.png", "--", "--data.name", "digits"]
    text = failure("data", "show", "configs/segment/digits.py", *options)
    assert "data.name = digits gives no mask" in text


def test_nothing_is_overwritten(folder, photos, tmp_path):
    out = tmp_path / "out"
    (photos / "deep").mkdir()
    (photos / "deep" / "0.JPG").write_bytes((photos / "0.png").read_bytes())
    text = failure("predict", folder, photos, "--out", out)
    assert f"{photos}/0.png and {photos}/deep/0.JPG would both be written as {out}/0.png; predict them into" in text
    (photos / "0_overlay.png").write_bytes((photos / "0.png").read_bytes())
    assert "0_overlay.png would both be" in failure(
        "predict", folder, photos / "0.png", photos / "0_overlay.png", "--out", out
    )
    assert not out.exists()
    text = failure("predict", folder, photos / "0.png", "--out", photos)
    assert (
        f"error: {photos}/0.png is there already, and would be written for {photos}/0.png; choose another --out" in text
    )


def test_what_predict_refuses(folder, photos, tmp_path, monkeypatch):
    photo, file = photos / "0.png", tmp_path / "file"
    file.write_text("")
    assert f"--out {file}/x must be a folder, and {file} is a file" in failure(
        "predict", "none", photo, "--out", file / "x"
    )
    monkeypatch.setattr("os.access", lambda *_: False)
    assert "it is not allowed in" in failure("predict", "none", photo, "--out", tmp_path / "x")
    monkeypatch.undo()
    for words in ([], ["--out", tmp_path / "x", "--sheet", tmp_path / "s.png"]):
        text = failure("predict", folder, photo, *words)
        assert "names a class for each pixel of whole images" in text
        assert "give --out FOLDER for its masks, and leave --sheet" in text
    model = create.create_model("cifar_resnet8", num_classes=3)
    network = Network("a classifier", model, init(model, jax.random.key(1)), Preset(32, 32), ("a", "b", "c"))
    monkeypatch.setattr(predictor, "open_named", lambda *_, **__: network)
    text = failure("predict", "net", photo, "--out", tmp_path / "x")
    assert text.startswith(
        "error: --out is for masks, and a classifier names one class for a whole image; leave it out"
    )
    assert not (tmp_path / "x").exists()


COMMANDS = ["report", "probe", "features", "maps", "neighbours", "attention", "similarity", "duplicates"]


@pytest.mark.parametrize("command", [*COMMANDS, "anomalies fit"])
def test_commands_for_classification_say_so(folder, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    text = failure(*command.split(), folder)
    assert "names a class for each pixel, and this is for networks that name one class for a whole image. Use" in text
    assert not list(tmp_path.iterdir())


def test_evaluate_draws_no_confusion_of_pixels(folder, tmp_path):
    text = failure("evaluate", folder, "--confusion", tmp_path / "c.png")
    assert text.startswith("error: --confusion draws how often images of one class are taken for another, and unet_")
    assert text.endswith("leave it out, or see --per-class")


def test_evaluate_folds_no_run(folder):
    text = failure("evaluate", folder, "--fold")
    assert text.startswith("error: --fold is for networks that name one class for a whole image, and for --weights; u")
    assert text.endswith("Leave it out, or convert the run to a file and evaluate that")
