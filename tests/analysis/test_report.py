"""The report: its numbers are those of an evaluation, names cannot break it, and it works in a browser."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from resnet_jax import cli
from resnet_jax.analysis.attention.gradcam import grad_cam
from resnet_jax.analysis.images import images_of
from resnet_jax.analysis.maps.numbers import measure
from resnet_jax.analysis.report.facts import gather, usual_method
from resnet_jax.analysis.report.page import class_rows, render
from resnet_jax.analysis.report.pictures import sheets, thumbnails
from resnet_jax.analysis.report.verdicts import verdicts
from resnet_jax.analysis.search import nearest
from resnet_jax.analysis.store import open_features
from resnet_jax.config import DataConfig
from resnet_jax.data import load_source
from resnet_jax.run.evaluate_network import evaluate_network

from .tiny import save_weights, tiny_network

pytestmark = pytest.mark.usefixtures("compile_quickly", "short_runs")

DIGITS = DataConfig(name="digits")
EVIL = ("</script><script>alert(1)</script>", "<!-- & \"'", *(f"class {i}" for i in range(2, 10)))


@pytest.fixture(scope="module")
def gathered(tmp_path_factory):
    """Facts of a network that knows nothing, so that there are mistakes, and the folder of the features."""
    folder = tmp_path_factory.mktemp("report")
    network = tiny_network()
    return (
        network,
        folder,
        gather(network, DIGITS, "test", folder, images=100, mistakes=5, method="pca", batch_size=360),
    )


def test_numbers_are_those_of_an_evaluation(gathered):
    network, folder, facts = gathered
    right = evaluate_network(network, DIGITS, 360)
    found = facts.verdicts.report
    assert facts.count == found.count == 360
    np.testing.assert_array_equal(found.confusion, right.confusion)
    np.testing.assert_allclose(found.calibration, right.calibration, rtol=1e-6)
    np.testing.assert_allclose([found.loss, found.top1, found.top5], [right.loss, right.top1, right.top5], rtol=1e-6)

    logits, labels = np.asarray(open_features(folder)["logits"], np.float64), load_source(DIGITS, "test").labels()
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(facts.verdicts.confidence, shares.max(axis=1), rtol=1e-5)
    np.testing.assert_allclose(facts.verdicts.probability, shares[np.arange(360), labels], rtol=1e-5)
    wrong = np.flatnonzero(shares.argmax(axis=1) != labels)
    worst = wrong[np.argsort(shares[wrong, labels[wrong]])][:5]
    assert [one.place for one in facts.mistakes] == worst.tolist()
    images = images_of(load_source(DIGITS, "test"), network.preset, worst)
    np.testing.assert_array_equal([one.image for one in facts.mistakes], images)
    for maps, classes in (("for_said", facts.verdicts.predicted[worst]), ("for_true", labels[worst])):
        np.testing.assert_allclose([getattr(one, maps) for one in facts.mistakes], grad_cam(network, images, classes))


def test_logits_are_counted_in_blocks(monkeypatch):
    from resnet_jax.analysis.report import verdicts as module

    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 7)).astype(np.float32), rng.integers(0, 7, 50)
    whole = verdicts(logits, labels)
    monkeypatch.setattr(module, "BLOCK", 16)
    parts = verdicts(logits, labels)
    np.testing.assert_array_equal(parts.report.confusion, whole.report.confusion)
    np.testing.assert_array_equal(parts.predicted, logits.argmax(axis=1))
    np.testing.assert_allclose(parts.report.loss, whole.report.loss, rtol=1e-6)
    assert whole.report.confusion.sum() == 50


def test_the_map_shows_the_sample_and_its_neighbours(gathered):
    _, folder, facts = gathered
    here = facts.map
    assert len(np.unique(here.places)) == len(here.places) == 100
    np.testing.assert_array_equal(here.labels, open_features(folder).labels[here.places])
    rows = np.asarray(open_features(folder)["pooled"])[here.places]
    places, cosines = nearest(rows, neighbours=6)
    np.testing.assert_array_equal(here.near, places)
    np.testing.assert_allclose(here.similar, cosines)
    assert here.coordinates.min() == 0
    assert here.coordinates.max() == 1
    assert here.numbers == measure(rows, here.labels)


def test_without_halves_there_are_no_numbers(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "few.npz", test_images=images, test_labels=np.arange(4), class_names=list("0123"))
    config = DataConfig(name=f"npz:{tmp_path}/few.npz")
    facts = gather(tiny_network(), config, "test", tmp_path / "f", batch_size=360)
    assert (facts.map.method, facts.map.numbers) == ("pca", None)
    assert "silhouette" not in page_of(facts, names=tuple("0123456789"))


def test_the_usual_method(monkeypatch):
    from resnet_jax.analysis.maps import embed

    assert usual_method(90) == "pca", "t-SNE needs 91"
    assert usual_method(91) == "tsne"
    assert usual_method(10**6) == "pca"
    monkeypatch.setattr(embed, "import_module", lambda name: exec("raise ImportError(name)"))
    assert usual_method(91) == "pca"


def test_classes_in_the_table():
    logits = np.full((6, 4), -9.0, np.float32)
    logits[np.arange(6), [0, 0, 1, 1, 1, 0]] = 9
    found = verdicts(logits, np.array([0, 0, 0, 1, 1, 2]))
    rows = {row.name: row for row in class_rows(found.report, "abcd")}
    assert list(rows) == ["c", "a", "b"], "the least recognised first; a class that nobody has or says is left out"
    assert rows["a"][1:] == (3, pytest.approx(2 / 3), pytest.approx(2 / 3), "b (1)", 1)
    assert rows["b"][1:] == (2, 1.0, pytest.approx(2 / 3), "", 0)
    assert rows["c"][1:] == (1, 0.0, None, "a (1)", 1)


def test_sheets_hold_the_images_in_order():
    import base64
    import io

    from PIL import Image

    from resnet_jax.analysis.report.pictures import CELLS, columns_of

    images = np.random.default_rng(0).integers(0, 255, (CELLS + 3, 5, 5, 1), np.uint8)
    columns, found = columns_of(len(images)), sheets(images)
    assert len(found) == 2
    for place in (0, 1, columns, CELLS - 1, CELLS, CELLS + 2):
        content = base64.b64decode(found[place // columns**2].split(",")[1])
        row, column = divmod(place % columns**2, columns)
        cell = np.asarray(Image.open(io.BytesIO(content)))[5 * row : 5 * row + 5, 5 * column : 5 * column + 5]
        np.testing.assert_array_equal(cell, images[place, ..., 0])
    assert thumbnails(np.zeros((2, 97, 97, 3), np.uint8), 64).shape == (2, 64, 64, 3)
    assert thumbnails(images, 64) is images


def page_of(facts, names=EVIL, **options):
    given = {"data": "digits <test>", "note": "images as they are", "environment": {"who": "<me>"}, **options}
    return render(replace(facts, class_names=names, network_classes=names), **given)


def data_in(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def test_names_cannot_break_the_page(gathered):
    page = page_of(gathered[2])
    assert "alert(1)</script>" not in page
    assert page.count("<script") == page.count("</script>") == 2
    assert "digits &lt;test&gt;" in page
    assert "&lt;me&gt;" in page
    data = data_in(page)
    assert [one["name"] for one in data["classes"]] == list(EVIL)
    assert html.escape(EVIL[0], quote=False) in page


def test_the_page_asks_for_nothing(gathered):
    page = page_of(gathered[2])
    addresses = re.findall(r"""(?:src|href)=["']([^"']*)|url\(([^)]*)\)|@import|fetch\(|XMLHttpRequest""", page)
    assert addresses
    assert all((one or two).startswith(("data:", "${sheets")) for one, two in addresses)
    assert "default-src 'none'" in page


def test_where_classes_cannot_be_compared(gathered, tmp_path):
    network = tiny_network(num_classes=7)
    network = replace(network, class_names=tuple("abcdefg"))
    facts = gather(network, DIGITS, "test", tmp_path, images=50, method="pca", batch_size=360)
    assert facts.verdicts is None
    page = page_of(facts, names=tuple("0123456789"))
    assert "Nothing is said here about mistakes: the network has 7 classes and digits has 10" in html.unescape(page)
    assert "Worst mistakes" not in page
    assert set(data_in(page)["points"]["said"]) == {-1}


def test_the_command_of_weights(tmp_path, capsys):
    out = tmp_path / "r.html"
    words = [*save_weights(tmp_path), "--data.name", "digits", "--split", "test", "--batch-size", "360"]
    cli.main(["report", *words, "--out", str(out), "--images", "40", "--mistakes", "0", "--method", "pca"])
    printed = " ".join(capsys.readouterr().out.split())
    assert re.search(r"cifar_resnet8 of .*, on digits test: top-1 \d+\.\d\d%, 360 images", printed)
    assert f"The report is in {out}, " in printed
    page = out.read_text("utf-8")
    assert len(data_in(page)["points"]["x"]) == 40
    assert "A sample of 40 of the 360 images, put on a plane by PCA of the 64 features" in page
    assert "Training" not in page


def test_what_cannot_be_meant(tmp_path):
    words = ["report", *save_weights(tmp_path), "--data.name", "digits", "--split", "test"]
    images = np.zeros((2, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "two.npz", test_images=images, test_labels=np.arange(2), class_names=["a", "b"])
    out = str(tmp_path / "r.html")
    for more, text in (
        (["--out", str(tmp_path / "r.pdf")], "r.pdf would be a page; give a file name that ends in .html"),
        (["--out", str(tmp_path / "no" / "r.html")], "there is no folder .*no. Make it, or choose another place"),
        (["--out", out, "--images", "2"], "--images = 2 must be at least 3"),
        (["--out", out, "--mistakes", "-1"], "--mistakes = -1 and --seed = 0 at least 0"),
        (["--out", out, "--data.name", f"npz:{tmp_path}/two.npz"], "test has 2 images; a report needs at least 3"),
    ):
        with pytest.raises(SystemExit, match=text):
            cli.main([*words, *more])


BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")

# Moves the pointer over the whole map, and writes what the panel says into the page.
SWEEP = """<script>
addEventListener("load", () => setTimeout(() => {
  const plane = document.getElementById("plane"), panel = document.getElementById("panel"), seen = {};
  const box = plane.getBoundingClientRect();
  const at = (type, x, y) => plane.dispatchEvent(new PointerEvent(type, {clientX: x, clientY: y, bubbles: true}));
  for (let y = box.top; y < box.bottom; y += 5) for (let x = box.left; x < box.right; x += 5) {
    at("pointermove", x, y);
    const parts = [...panel.querySelectorAll("p, .near > div")].map((one) => one.textContent);
    if (parts.length > 1) seen[parts[0]] = parts;
  }
  at("pointermove", box.left + 1, box.top + 1);
  const away = panel.textContent;
  plane.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight"}));
  const first = panel.querySelector("p").textContent;
  document.querySelector(".legend button").click();
  document.querySelectorAll("#classes th")[1].click();
  const images = [...document.querySelectorAll("#classes td:nth-child(2)")].map((one) => Number(one.textContent));
  const result = document.createElement("pre");
  result.id = "result";
  const pressed = document.querySelectorAll("[aria-pressed=true]").length;
  result.textContent = JSON.stringify({seen, away, first, images, pressed});
  document.body.append(result);
}, 300));
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium: install the package chromium")
def test_in_a_browser(gathered, tmp_path):
    facts = gathered[2]
    path = tmp_path / "r.html"
    path.write_text(page_of(facts, names=EVIL).replace("</body>", SWEEP + "</body>"), "utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=20000"]
    command = [BROWSER, *flags, "--window-size=1200,900", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    found = json.loads(html.unescape(re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.S)[1]))
    here, said = facts.map, facts.verdicts
    assert len(found["seen"]) > 80, "nearly every point can be found by the pointer"
    for i, place in enumerate(here.places):
        title = f"Image {place}: {EVIL[here.labels[i]]}"
        if title not in found["seen"]:
            continue
        _, verdict, _, *rest = found["seen"][title]
        wrong = said.predicted[place] != said.labels[place]
        assert verdict.startswith(f"✗ taken for {EVIL[said.predicted[place]]} (" if wrong else "✓ recognised (")
        assert float(verdict.split("(")[-1][:-3]) == pytest.approx(100 * said.confidence[place], abs=0.1)
        names = [one.rsplit(", ", 1)[0][2:] for one in rest[:6]]
        assert names == [EVIL[here.labels[j]] for j in here.near[i]]
        assert [one[0] for one in rest[:6]] == ["✓" if here.labels[j] == here.labels[i] else "✗" for j in here.near[i]]
    assert found["away"] == "No image is chosen."
    assert found["first"] == f"Image {here.places[0]}: {EVIL[here.labels[0]]}"
    assert found["pressed"] == 1
    assert found["images"] == sorted(found["images"])
