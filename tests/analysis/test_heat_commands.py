"""The commands `attention` and `anomalies`, from end to end on a tiny network."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_jax import cli
from resnet_jax.analysis.anomalies.detector import heat_of, open_detector, score
from resnet_jax.analysis.anomalies.patches import batches_of
from resnet_jax.analysis.attention.gradcam import probabilities
from resnet_jax.analysis.images import images_of
from resnet_jax.commands.heat_sheet import draw_heat
from resnet_jax.config import DataConfig, Preset
from resnet_jax.data import load_source
from resnet_jax.models import create_model
from resnet_jax.run import named, network
from resnet_jax.run.network import Network

from ..weights.networks import random_variables
from .test_anomalies import auroc, textures

pytestmark = pytest.mark.usefixtures("compile_quickly")

SIDE = 15


@pytest.fixture
def tiny(monkeypatch):
    """What every name of a network names."""
    model = create_model("cifar_resnet20", num_classes=10, stage_sizes=(1, 1, 1), width=4)
    preset = Preset(resize=SIDE, crop=SIDE, mean=(0.3,), std=(0.4,))
    names = ("zero", *"123456789")
    made = Network("tiny $net$", model, random_variables(model, 1, (SIDE, SIDE)), preset, names)
    monkeypatch.setattr(named, "open_named", lambda *args, **options: made)
    monkeypatch.setattr(network, "load_network", lambda *args, **options: made)
    return made


@pytest.fixture(scope="module")
def mvtec(tmp_path_factory):
    """Generated images in the layout of MVTec AD: MVTec's own cannot be shipped."""
    root = tmp_path_factory.mktemp("data") / "stripes"
    for folder, count, seed, defect in (
        ("train/good", 20, 0, False),
        ("test/good", 10, 1, False),
        ("test/hole", 10, 2, True),
    ):
        images, masks = textures(count, seed, SIDE, defect)
        (root / folder).mkdir(parents=True)
        for place, (image, mask) in enumerate(zip(images, masks, strict=True)):
            Image.fromarray(image[..., 0]).save(root / folder / f"{place:03}.png")
            if defect:
                (root / "ground_truth" / "hole").mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.uint8(255) * mask).save(root / "ground_truth" / "hole" / f"{place:03}_mask.png")
    return root


def size_of(path):
    with Image.open(path) as picture:
        return picture.size


SLOW = ("", "--method gradcam++", "--method integrated-gradients", "--method occlusion --window 6 --stride 4")


@pytest.mark.parametrize(
    "options", ["--class zero --stage stage2", *(pytest.param(one, marks=pytest.mark.slow) for one in SLOW)]
)
def test_attention_of_a_split(tiny, tmp_path, capsys, options):
    out = tmp_path / "a.png"
    places = "--places 3 359 17"
    cli.main(f"attention run --data.name digits {places} --out {out} --batch-size 2 {options}".split())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("tiny $net$, on digits test: ")
    assert lines[0].endswith("class zero" if "--class" in options else "the class that the network names")
    source = load_source(DataConfig(name="digits"), "test")
    sure = probabilities(tiny, images_of(source, tiny.preset, [3, 359, 17]))
    mean = (sure[:, 0] if "--class" in options else sure.max(axis=1)).mean()
    assert f"Mean probability of the class: {100 * mean:.1f} %" in lines[1]
    assert re.search(r"without the hottest 20 % of the pixels \d+\.\d %, without as many elsewhere \d+\.\d %", lines[1])
    assert size_of(out)[0] > 900


def test_attention_of_files(tiny, mvtec, tmp_path, capsys):
    folder = mvtec / "test" / "hole"
    for words in (f"run {folder}", f"--weights a.pth --model x {folder}/000.png {folder}/00[1-9].png"):
        out = tmp_path / "a.png"
        cli.main(f"attention {words} --out {out}".split())
        assert "tiny $net$, on 10 images: gradcam of stage3" in capsys.readouterr().out
        out.unlink()


def test_attention_that_cannot_be_meant(tiny, mvtec, tmp_path):
    data = "--data.name digits"
    for line, text in (
        (f"{data} --class 10", "--class 10 is none of the classes of tiny .net.; their numbers are 0 to 9"),
        (f"{data} --class zer", "has no class 'zer'. Did you mean 'zero'?"),
        (f"{data} --stage stage4", "has no stage 'stage4'; did you mean 'stage3'. Its stages are stem, stage1"),
        (f"{data} --method occlusion --window 16", "a window of 16 pixels .* does not fit images of 15 pixels"),
        (f"{data} --method integrated-gradients --steps 0", "integrated gradients of 0 steps are none"),
        (f"{data} --steps 3", "--steps 3 is for --method integrated-gradients, not for gradcam; leave it out"),
        (f"{data} --method occlusion --stage stem", "--stage stem is for --method gradcam or gradcam"),
        (f"{data} --places 360", "digits test has no image at place 360; its places are 0 to 359"),
        (f"{data} --images 0", "images must be 1 to 100"),
        (f"{data} --images 101", "images must be 1 to 100"),
        (f"{data} --split tset", "unknown split of digits 'tset'"),
        (f"{data} --out {tmp_path}/no/a.png", "there is no folder"),
        (f"{mvtec}/test {data}", "images come from files or from a data set; name only one of them"),
        (f"{tmp_path}", "holds no image; name files"),
        ("", "say which images tiny .net. is to see"),
        ("--data.name digit_scenes", "gives no label.*this command needs image and label"),
    ):
        with pytest.raises(SystemExit, match=text):
            cli.main(["attention", "run", "--out", str(tmp_path / "a.png"), *line.split()])
    assert not (tmp_path / "a.png").exists()


def test_anomalies_in_the_layout_of_mvtec(tiny, mvtec, tmp_path, capsys):
    detector, out = tmp_path / "d", tmp_path / "s.png"
    cli.main(f"anomalies fit run --data.name folder:{mvtec} --out {detector} --batch-size 8".split())
    told = " ".join(capsys.readouterr().out.split())
    assert (
        f"stage1 and stage2: 450 patches of 12 numbers (21.6 KB) of 20 images of 'good' are kept in {detector}" in told
    )
    line = f"anomalies score run --data.name folder:{mvtec} --detector {detector} --out {out} --batch-size 8"
    cli.main([*line.split(), "--as-json"])
    printed = json.loads(capsys.readouterr().out)
    kept = open_detector(detector, tiny, tiny.preset)
    source = load_source(DataConfig(name=f"folder:{mvtec}", train_split="test"), "test")
    right = score(kept, tiny, batches_of(source, tiny.preset, range(20), 20))
    values = np.array([one["score"] for one in printed["images"]])
    np.testing.assert_allclose(values, right.images, rtol=1e-4, atol=1e-5)
    assert [one["image"] for one in printed["images"]][9:11] == ["good/009.png", "hole/000.png"]
    assert printed["image_auroc"] == auroc(np.arange(20) >= 10, values) > 0.95
    truth = np.concatenate([np.zeros((10, SIDE, SIDE), bool), textures(10, 2, SIDE, True)[1]])
    assert printed["pixel_auroc"] == pytest.approx(auroc(truth.ravel(), heat_of(right.maps, SIDE).ravel()), abs=1e-4)
    assert printed["pixel_auroc"] > 0.9
    assert size_of(out)[0] > 900
    cli.main([*line.split(), "--images", "5", "--neighbours", "3"])
    assert re.search(
        r"AUROC of images: [01]\.\d{3}\. Mean score of 10 good ones .* of 10 others", capsys.readouterr().out
    )

    cli.main(f"anomalies score run {mvtec}/test/hole/00*.png --detector {detector} --out {out}".split())
    table = " ".join(capsys.readouterr().out.split())
    assert "AUROC" not in table
    assert f"│ 000.png │ {right.images[10]:.3g}" in table


def test_one_class_against_the_others(tiny, tmp_path, capsys):
    detector = tmp_path / "d"
    shared = f"--data.name digits --batch-size 360 --{{}} {detector}"
    fit = f"anomalies fit run --good 0 --stages pooled --share 1 {shared.format('out')}"
    cli.main(fit.split())
    assert "pooled: 142 patches of 16 numbers" in " ".join(capsys.readouterr().out.split())
    cli.main(f"anomalies score run {shared.format('detector')} --out {tmp_path}/s.png".split())
    found = re.search(
        r"AUROC of images: (\d\.\d+)\. Mean score of 36 good ones .* of 324 others", capsys.readouterr().out
    )
    assert float(found[1]) > 0.8


def test_anomalies_that_cannot_be_meant(tiny, mvtec, tmp_path):
    data, detector = f"--data.name folder:{mvtec}", tmp_path / "d"
    cli.main(f"anomalies fit run {data} --out {detector} --batch-size 20".split())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    for line, text in (
        (
            f"fit run {data} --out {tmp_path}/mine",
            "mine belongs to something else: it holds thesis.tex and no detector",
        ),
        (f"fit run {data} --good god", "unknown class 'god'. Did you mean 'good'"),
        (
            "fit run --data.name digits",
            "nobody says which of the classes 0, 1, 2, 3, 4, ... holds the good images",
        ),
        (f"fit run {data} --share 1.5", "a share of 1.5 of the patches cannot be kept"),
        (f"fit run {data} --stages stage9", "has no stage 'stage9'"),
        ("fit run --data.name digit_scenes", "gives no label.*a detector of anomalies needs image and label"),
        (f"score run {data} --detector {mvtec}", r"holds no detector \(detector.json\)"),
        (f"score run {data} --detector {detector} --neighbours 1000", "1000 neighbours cannot be weighed against a"),
        (f"score run {data} --detector {detector} --images 0", "--images 0 must be 1 to 100"),
        (f"score run {data} --detector {detector} --split train", "all 20 images are good; an AUROC needs both"),
        (
            f"score run --data.name digits --detector {detector}",
            "digits test has no class 'good', which the",
        ),
        (f"score run {mvtec}/test {data} --detector {detector}", "images come from files or from a data set"),
        (f"score run {data} --detector {detector} --out {tmp_path}/s.jpg", "would be a PNG"),
    ):
        out = [] if "--out" in line else ["--out", str(tmp_path / ("new" if line.startswith("fit") else "s.png"))]
        with pytest.raises(SystemExit, match=text):
            cli.main(["anomalies", *line.split(), *out])
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_scratched_digits_are_digits_but_for_the_mask(tmp_path):
    at = Path(__file__).parents[2] / "examples" / "scratched_digits.py"
    spec = importlib.util.spec_from_file_location("scratched_digits", at)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(tmp_path)
    source = load_source(DataConfig(name="digits"), "test")
    found = sorted((tmp_path / "test" / "scratch").iterdir())
    assert len(found) == len(list((tmp_path / "test" / "good").iterdir())) == 180
    for path in found:
        mask = np.asarray(Image.open(tmp_path / "ground_truth" / "scratch" / f"{path.stem}_mask.png")) > 0
        digit = source[int(path.stem)]["image"][..., 0]
        assert mask.sum() == 4
        np.testing.assert_array_equal(np.asarray(Image.open(path)), np.where(mask, 255 - digit, digit))
    assert len(list((tmp_path / "train" / "good").iterdir())) == 1437


def test_captions_of_neighbours_do_not_overlap(tmp_path, monkeypatch):
    """Names of wide letters are written smaller, and nothing leaves the picture."""
    from matplotlib.figure import Figure

    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args: (drawn.append(self), save(self, *args)))
    image = np.zeros((4, 4, 3), np.uint8)
    captions = [f"{'W' * 40}\n$x$", "short"]
    draw_heat([[image] * 2] * 2, captions, "W" * 120, "note " * 60, ("a", "b"), tmp_path / "p.png")
    (figure,) = drawn
    boxes = {text.get_text(): text.get_window_extent() for text in figure.texts}
    assert len(boxes) == 4
    wide = next(box for text, box in boxes.items() if text.endswith(r"\$x\$"))
    short = boxes["short"]
    assert wide.x1 < short.x0
    assert max(box.x1 for box in boxes.values()) <= figure.bbox.width
    assert len(figure.axes) == 5
