"""`predict` and `evaluate` with weights that come without a run, beside torchvision's own transforms and networks."""

import json
import shutil
from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image

import resnet_jax as rn
from resnet_jax import cli
from resnet_jax.config import PresetChange
from resnet_jax.data import load_image
from resnet_jax.errors import ConfigError, WeightsError
from resnet_jax.run.evaluate_network import labels_of
from resnet_jax.run.network import load_network
from resnet_jax.weights import Preset, hub, load

from .weights.networks import random_variables

torch = pytest.importorskip("torch")

CLASSES = ("tench", "great white shark", "toilet tissue")  # of ImageNet; 0, 2 and 999


def torch_network(torchvision, name):
    """torchvision's, with random weights, scales and statistics, so that no error hides behind a zero or a one."""
    torch.manual_seed(0)
    network = torchvision.models.get_model(name).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.2)
            torch.nn.init.normal_(module.running_mean, std=0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return network


@pytest.fixture(scope="module")
def small(torchvision, tmp_path_factory):
    network = torch_network(torchvision, "resnet18")
    path = tmp_path_factory.mktemp("weights") / "own.pth"
    torch.save(network.state_dict(), path)
    return path, network


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three classes of ImageNet, of different shapes and sizes, whose folders are not in the network's order."""
    root = tmp_path_factory.mktemp("data") / "photos"
    for place, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for i in range(2 + place):
            rng = np.random.default_rng([place, i])
            pixels = rng.integers(0, 256, (5, 6, 3), np.uint8)
            picture = Image.fromarray(pixels).resize((301 - 7 * i, 240 + 30 * place + i), Image.Resampling.BICUBIC)
            picture.save(root / name / f"{i}.{'jpg' if i % 2 else 'png'}")
    return root


def files(photos):
    return [path for name in sorted(CLASSES) for path in sorted((photos / name).iterdir())]


def expected(network, transform, paths):
    with torch.no_grad():
        images = torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])
        return torch.softmax(network(images), 1).numpy()


def predicted(capsys, *words):
    capsys.readouterr()
    cli.main(["predict", *map(str, words), "--as-json", "--top", "1000"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [line.pop("image") for line in lines], lines


def test_a_published_set_names_what_torchvision_does(torchvision, photos, tmp_path, monkeypatch, capsys):
    """The V2 sets resize to 232 pixels, not 256: with another preset the probabilities differ by far more."""
    network = torch_network(torchvision, "resnet50")
    torch.save(network.state_dict(), tmp_path / "published.pth")
    asked = []
    monkeypatch.setattr(load, "find_file", lambda found: asked.append(found.name) or tmp_path / "published.pth")
    images, lines = predicted(
        capsys, "--model", "resnet50", "--weights", "IMAGENET1K_V2", *files(photos)[:3], "--batch-size", "2"
    )
    assert asked == ["IMAGENET1K_V2"]
    assert images == [str(path) for path in files(photos)[:3]], "with --weights every word is an image"
    weights = torchvision.models.ResNet50_Weights.IMAGENET1K_V2
    right = expected(network, weights.transforms(), files(photos)[:3])
    wrong = expected(network, torchvision.models.ResNet50_Weights.IMAGENET1K_V1.transforms(), files(photos)[:3])
    names = weights.meta["categories"]
    once = [i for i, name in enumerate(names) if names.count(name) == 1]
    ours = np.array([[line[names[i]] for i in once] for line in lines])
    np.testing.assert_allclose(ours, right[:, once], atol=2e-5)
    assert np.abs(ours - wrong[:, once]).max() > 1e-3


def test_a_repository_is_prepared_as_its_authors_say(small, photos, tmp_path, monkeypatch, capsys):
    timm = pytest.importorskip("timm")
    described = {
        "architecture": "resnet18",
        "pretrained_cfg": {
            "input_size": [3, 96, 96],
            "crop_pct": 0.8,
            "interpolation": "bicubic",
            "crop_mode": "center",
            "mean": [0.5, 0.4, 0.3],
            "std": [0.25, 0.2, 0.3],
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(described))
    shutil.copy(small[0], tmp_path / "pytorch_model.bin")
    here = lambda repository, name: path if (path := tmp_path / name).exists() else None
    monkeypatch.setattr(hub, "_file", here)
    _, lines = predicted(capsys, "--weights", "somebody/resnet18.own", *files(photos)[:3])
    config = timm.data.resolve_data_config(described["pretrained_cfg"])
    right = expected(small[1], timm.data.create_transform(**config, is_training=False), files(photos)[:3])
    np.testing.assert_allclose([line["tench"] for line in lines], right[:, 0], atol=2e-5)
    np.testing.assert_allclose([line["toilet tissue"] for line in lines], right[:, 999], atol=2e-5)


def test_a_file_predicts_folders_and_names_what_is_broken(small, photos, tmp_path, capsys):
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "tench" / "0.png").write_bytes(b"no image")
    picture = tmp_path / "sheet.png"
    words = ["--weights", str(small[0]), "--model", "resnet18", str(tmp_path / "photos"), "--sheet", str(picture)]
    with pytest.raises(SystemExit, match=r"error: 1 of 9 images:\n  cannot read .*tench/0.png"):
        cli.main(["predict", *words, "--batch-size", "4"])
    out = capsys.readouterr().out
    assert "images: shorter side 256 pixels (bilinear), centre 224" in " ".join(out.split())
    assert f"8 images are drawn in {picture}" in out
    with Image.open(picture) as drawn:
        pixels = np.asarray(drawn.convert("RGB"), np.float32)
    # Every image but the broken one is on it as the network saw it, in a cell of 1.5 inches.
    for path in files(photos):
        cell = np.asarray(Image.fromarray(load_image(path, Preset())).resize((180, 180)), np.float32)
        assert (min_distance(pixels, cell) < 12) == (path != photos / "tench" / "0.png"), path


def min_distance(sheet_pixels, image):
    """The mean difference of an image to the part of the sheet that is most like it, in steps of 2 pixels."""
    height, width = image.shape[:2]
    coarse, wanted = sheet_pixels[::2, ::2], image[10:-10:20, 10:-10:20]
    best = np.inf
    for top in range(coarse.shape[0] - height // 2 + 1):
        rows = coarse[top + 5 : top + height // 2 - 5 : 10]
        starts = np.arange(coarse.shape[1] - width // 2 + 1)
        columns = starts[:, None] + np.arange(5, width // 2 - 5, 10)[None]
        cells = rows[:, columns].transpose(1, 0, 2, 3)
        best = min(best, np.abs(cells - wanted[None]).mean(axis=(1, 2, 3)).min())
    return best


def test_the_accuracy_of_a_file_is_torchs(torchvision, small, photos, capsys):
    """Labels go by the classes' names: three of a thousand, in another order."""
    path, network = small
    words = ["--weights", str(path), "--model", "resnet18", "--data.name", f"folder:{photos}", "--batch-size", "4"]
    cli.main(["evaluate", *words, "--as-json", "--per-class"])
    found = json.loads(capsys.readouterr().out)
    transform = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    right = expected(network, transform, files(photos))
    numbers = [rn.class_names().index(path.parent.name) for path in files(photos)]
    assert numbers == [2, 2, 2, 0, 0, 999, 999, 999, 999]
    assert found["count"] == 9
    np.testing.assert_allclose(found["loss"], -np.log(right[range(9), numbers]).mean(), rtol=1e-4)
    best = np.argsort(-right, 1)
    assert found["top1"] == pytest.approx(np.mean(best[:, 0] == numbers))
    assert found["top5"] == pytest.approx(np.mean([n in row for n, row in zip(numbers, best[:, :5], strict=True)]))
    assert "step" not in found
    cli.main(["evaluate", *words, "--fold"])
    said = capsys.readouterr().out
    assert "norms: 20 folded into convolutions, 0 kept" in said.replace("\n", " ")
    assert f"{found['loss']:.4f}" in said


def test_labels_by_name_by_number_and_in_order():
    known = rn.class_names()
    assert labels_of(["toilet tissue", "tench"], known, "x").tolist() == [999, 0]
    assert labels_of(sorted(map(str, range(1000))), known, "x").tolist() == sorted(range(1000), key=str)
    assert labels_of([f"n{i:08}" for i in range(1000)], known, "x").tolist() == list(range(1000))
    assert labels_of(["cat", "dog"], ["0", "1"], "x").tolist() == [0, 1]
    with pytest.raises(ConfigError, match=r"1000 classes and x has 2; 1 of these .* or elsewhere: unicorn\. Call them"):
        labels_of(["tench", "unicorn"], known, "x")
    with pytest.raises(ConfigError, match="10 of these .* or elsewhere: 0, 1, 2, 3, 4 and 5 more"):
        labels_of(list("0123456789"), known, "digits")
    other_order = ["a name of its own", *sorted(known)[1:]]
    with pytest.raises(ConfigError, match="a name of its own"):
        labels_of(other_order, known, "x")


def test_what_cannot_be_meant(small, photos, tmp_path):
    with pytest.raises(ConfigError, match="is there of several networks; say of which: --model resnet50"):
        load_network("IMAGENET1K_V2")
    with pytest.raises(ConfigError, match="--weights nowhere is no file, no published set"):
        load_network("nowhere")
    with pytest.raises(WeightsError, match="unknown weight set of resnet50 'IMAGENET1K_V3'. Did you mean"):
        load_network("IMAGENET1K_V3", "resnet50")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="is the folder of a run"):
        load_network(str(tmp_path), "resnet50")
    with pytest.raises(SystemExit, match="no images given.*--weights WEIGHTS"):
        cli.main(["predict", "--weights", str(small[0])])
    with pytest.raises(SystemExit, match="cannot write .*none/sheet.png: there is no folder"):
        cli.main(["predict", "--weights", str(small[0]), str(photos), "--sheet", str(tmp_path / "none" / "sheet.png")])
    with pytest.raises(SystemExit, match=r"ends in \.png"):
        cli.main(["predict", "--weights", str(small[0]), str(photos), "--sheet", str(tmp_path / "sheet.txt")])
    with pytest.raises(SystemExit, match="evaluate the folder of a run, or weights on a data set"):
        cli.main(["evaluate"])
    with pytest.raises(SystemExit, match="say what to evaluate the weights on"):
        cli.main(["evaluate", "--weights", str(small[0])])
    for options in (["--data.name", "digits"], ["--preset.crop", "32"]):
        with pytest.raises(SystemExit, match="are for --weights; .* says itself what it was trained on"):
            cli.main(["evaluate", str(tmp_path), *options])
    with pytest.raises(SystemExit, match="are for --weights; name the file by --weights FILE"):
        cli.main(["predict", str(small[0]), "a.png", "--entry", "model_ema"])


def test_a_grey_networks_weights_need_a_mean(tmp_path, photos, capsys):
    model = rn.create_model("cifar_resnet20", num_classes=3)
    variables = random_variables(model, channels=1)
    path = tmp_path / "grey.safetensors"
    rn.save_weights(path, variables)
    with pytest.raises(WeightsError, match=r"grey.safetensors is for images of 1 channels.*of 3\. .*--preset.mean"):
        load_network(str(path), "cifar_resnet20")
    words = ["--weights", path, "--model", "cifar_resnet20", files(photos)[0]]
    _, (line,) = predicted(capsys, *words, "--preset.mean", "0.4", "--preset.std", "0.2")
    preset = Preset(resize=32, crop=32, mean=(0.4,), std=(0.2,))
    image = (load_image(files(photos)[0], preset)[None] / 255 - 0.4) / 0.2
    right = jax.nn.softmax(jax.jit(partial(model.apply, train=False))(variables, image.astype(np.float32)))[0]
    np.testing.assert_allclose([line[str(i)] for i in range(3)], right, atol=1e-5)


@pytest.mark.slow
def test_images_are_prepared_as_asked(torchvision, small, photos, capsys):
    path, network = small
    network_words, images = ["--weights", str(path), "--model", "resnet18"], files(photos)
    preset = ["--preset.resize", "80", "--preset.crop", "64", "--preset.mean", *"000", "--preset.std", *"111"]
    preset += ["--preset.interpolation", "bicubic"]
    _, lines = predicted(capsys, *network_words, *images, *preset)
    transform = torchvision.transforms._presets.ImageClassification(
        crop_size=64, resize_size=80, mean=(0, 0, 0), std=(1, 1, 1), interpolation=Image.Resampling.BICUBIC
    )
    right = expected(network, transform, images)
    np.testing.assert_allclose([line["toilet tissue"] for line in lines], right[:, 999], atol=2e-5)
    cli.main(["evaluate", *network_words, "--data.name", f"folder:{photos}", *preset, "--as-json"])
    labels = [rn.class_names().index(image.parent.name) for image in images]
    loss = -np.log(right[range(len(images)), labels]).mean()
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop": 300}, "preset.crop = 300 must be at most preset.resize = 256.*set both"),
        ({"crop_ratio": 0.9, "resize": 300}, "preset.crop_ratio = 0.9 and preset.resize = 300 both say how large"),
        ({"resize": 32}, "preset.crop = 224 must be at most preset.resize = 32"),
        (
            {"mean": (0.5,)},
            r"preset.mean = \(0.5,\) and preset.std = .* one value for each of 1 or 3 channels; set both",
        ),
        ({"mean": (0.5, 0.5), "std": (1.0, 1.0)}, "preset.mean = .* of 1 or 3 channels"),
    ],
)
def test_preparations_that_are_not_possible(change, message):
    with pytest.raises(ConfigError, match=message):
        PresetChange(**change).applied(Preset())


def test_the_ratio_of_a_crop_says_what_images_are_resized_to():
    """timm's `floor(size / crop_pct)`; published weights may be evaluated at another size, as its tables have it."""
    assert PresetChange(crop=288, crop_ratio=1.0).applied(Preset()) == Preset(resize=288, crop=288)
    assert PresetChange(crop_ratio=0.95).applied(Preset(exact=(128, 171))) == Preset(resize=235)
    with pytest.raises(
        ConfigError, match="crop_ratio = 0.9 is of a crop, and these weights see whole images; set crop"
    ):
        PresetChange(crop_ratio=0.9).applied(Preset(crop=0))


def test_a_guess_names_all_networks_that_fit(small, caplog):
    assert load_network(str(small[0])).title.startswith("resnet18 of ")
    assert (
        "fit resnet18 and resnetblur18, which compute different things; it is taken for resnet18. --model decides"
        in (caplog.text)
    )
    caplog.clear()
    assert load_network(str(small[0]), "resnetblur18").title.startswith("resnetblur18 of ")
    assert not caplog.text


def test_a_sheet_of_many_shows_the_first(small, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("resnet_jax.commands.predict.SHOWN", 2)
    picture = tmp_path / "sheet.png"
    cli.main(["predict", "--weights", str(small[0]), "--model", "resnet18", str(photos), "--sheet", str(picture)])
    assert "The first 2 of 9 images are drawn in" in capsys.readouterr().out


@pytest.mark.slow
def test_photographs_are_turned_where_that_is_asked(small, photos, tmp_path, capsys):
    """Stored on their sides, with the note of how they were held: predicted and evaluated as the upright ones are."""
    network = ["--weights", small[0], "--model", "resnet18"]
    turned = Image.Exif()
    turned[0x0112] = 6
    for path in files(photos):
        target = tmp_path / "turned" / path.parent.name / f"{path.stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).convert("RGB").rotate(90, expand=True).save(target, exif=turned)

    def said(root, *words):
        cli.main(["evaluate", *map(str, network), "--data.name", f"folder:{root}", *words])
        return capsys.readouterr().out

    upright, ignored = said(photos, "--as-json"), said(tmp_path / "turned", "--as-json")
    assert json.loads(said(tmp_path / "turned", "--as-json", "--data.exif")) == json.loads(upright)
    assert json.loads(ignored)["loss"] != json.loads(upright)["loss"]

    _, straight = predicted(capsys, *network, *files(photos))
    _, again = predicted(capsys, *network, tmp_path / "turned", "--exif")
    assert again == straight
