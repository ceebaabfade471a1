"""The command that draws maps, and its picture with few and many classes."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox
from PIL import Image

from resnet_jax import cli
from resnet_jax.analysis.maps import embed
from resnet_jax.analysis.maps.maps import Maps, Panel
from resnet_jax.analysis.maps.numbers import Numbers
from resnet_jax.analysis.store import open_features
from resnet_jax.commands.draw_maps import LEGEND, NAMED, draw_maps

from .tiny import save_weights

pytestmark = pytest.mark.usefixtures("compile_quickly", "short_runs")


def test_two_networks_in_two_rows(tmp_path, capsys, monkeypatch):
    given = []
    monkeypatch.setattr(embed, "_tsne", lambda x, perplexity, seed: (given.append((x, perplexity, seed)), x[:, :2])[1])
    # What is measured, test_maps.py tests; here it takes too long.
    fake = lambda x, labels, seed: Numbers(float(x.mean()), 20, len(x) / 200, -0.25, len(labels))
    monkeypatch.setattr("resnet_jax.analysis.maps.maps.measure", fake)
    out = tmp_path / "maps"
    first, second = save_weights(tmp_path), save_weights(tmp_path, 2)
    words = ["maps", *first, "--data.name", "digits", "--split", "test", "--batch-size", "360", "--out", str(out)]
    words += ["--stages", "pooled", "--other", second[0], "--images", "100", "--perplexity", "9", "--seed", "2"]
    cli.main([*words, "--thumbnails", "20"])
    printed = json.loads((out / "map.json").read_text())
    assert (printed["images"], printed["split_size"], printed["method"]) == (100, 360, "tsne")
    assert [[one["stage"] for one in network["stages"]] for network in printed["networks"]] == [["pooled"]] * 2
    titles = [network["title"] for network in printed["networks"]]
    assert titles[0] != titles[1]
    points = np.load(out / "map.npz")
    for row, folder in enumerate(("features", "other")):
        kept = open_features(out / folder)
        np.testing.assert_array_equal(given[row][0], kept["pooled"][points["place"]])
        assert given[row][1:] == (9, 2)
        np.testing.assert_array_equal(points[f"{row}/pooled"], given[row][0][:, :2])
        np.testing.assert_array_equal(points["label"], kept.labels[points["place"]])
        assert printed["networks"][row]["stages"][0]["knn"] == pytest.approx(kept["pooled"][points["place"]].mean())
    assert not np.array_equal(given[0][0], given[1][0])
    with Image.open(out / "map.png") as picture:
        assert picture.width > 1000

    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines()[:-1])) <= 80
    assert f"{100 * printed['networks'][1]['stages'][0]['knn']:.1f} │         50.0 │      -0.25" in shown


@pytest.mark.parametrize("classes", [2, 10, 100, 1000])
def test_no_text_is_cut_off_or_lies_on_another(tmp_path, monkeypatch, classes):
    """Of the names on a panel, and of the texts around the panels."""
    rng = np.random.default_rng(0)
    count = max(3 * classes, 60)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, count - classes)])
    points = (rng.normal(size=(classes, 2)) * 9)[labels] + rng.normal(size=(count, 2))
    panels = [
        Panel(
            "a network with a long name, of " + "weights " * 9,
            f"stage{i}",
            802_816,
            50,
            points + i,
            Numbers(1, 20, 1, -0.123, 50),
        )
        for i in range(3)
    ]
    names = tuple(f"number {i} of these classes" for i in range(classes))
    maps = Maps("folder:photos", "tsne", 30.0, 0, (tuple(panels),) * 2, labels, np.arange(count), 2 * count, names)
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: (figures.append(figure), save(figure, path)))
    draw_maps(maps, tmp_path / "map.png")
    (figure,) = figures
    renderer = figure.canvas.get_renderer()
    page = [(text.get_window_extent(renderer).extents, text.get_text()) for text in figure.texts]
    assert len(page) >= 2 + 2 * 6 + 1 + (classes if classes <= LEGEND else 0)
    _check(page, figure.bbox.extents)
    for axes in figure.axes:
        written = [(text.get_window_extent(renderer).extents, text.get_text()) for text in axes.texts]
        assert min(classes, 2) <= len(written) <= min(classes, NAMED)
        _check(written, axes.bbox.extents)
    notes = " ".join(figure.texts[-1].get_text().split())
    assert ("every 8 classes the same 8 colours come with another sign" in notes) == (classes > LEGEND)
    assert ("after 64 classes they come again" in notes) == (classes > 64)
    assert "PCA first reduced the features to 50" in notes


def test_thumbnails_do_not_lie_on_each_other(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    points, images = rng.normal(size=(80, 2)), rng.integers(0, 255, (60, 8, 8, 1), np.uint8)
    panel = Panel("a network", "pooled", 9, None, points, Numbers(1, 20, 1, 0.5, 80))
    maps = Maps("digits", "pca", 30.0, 0, ((panel,),), np.arange(80) % 3, np.arange(80), 80, ("a", "b", "c"))
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: (figures.append(figure), save(figure, path)))
    rows = rng.permutation(80)[:60]
    draw_maps(maps, tmp_path / "map.png", (rows, images))
    (figure,) = figures
    drawn = [artist for artist in figure.axes[0].artists if isinstance(artist, AnnotationBbox)]
    assert 5 < len(drawn) < 60
    np.testing.assert_array_equal(drawn[0].xy, points[rows[0]])
    np.testing.assert_array_equal(drawn[0].offsetbox.get_data(), images[0].squeeze())
    renderer = figure.canvas.get_renderer()
    _check([(one.get_window_extent(renderer).extents, str(one.xy)) for one in drawn], figure.axes[0].bbox.extents)


def _check(texts, outer):
    boxes = np.array([box for box, _ in texts])
    assert (boxes[:, :2] >= outer[:2]).all(), "nothing is cut off"
    assert (boxes[:, 2:] <= outer[2:]).all(), "nothing is cut off"
    for i, (box, text) in enumerate(texts):
        for other, name in texts[i + 1 :]:
            apart = (box[:2] >= other[2:]).any() or (other[:2] >= box[2:]).any()
            assert apart, f"{text!r} lies on {name!r}"


def test_what_cannot_be_meant(tmp_path):
    words = ["maps", *save_weights(tmp_path), "--data.name", "digits", "--split", "test", "--out", str(tmp_path / "m")]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    for more, text in (
        (["--seed", "-1"], "--seed = -1 must be at least 0"),
        (["--images", "0"], "--images = 0 must be at least 1"),
        (["--thumbnails", "-1"], "--thumbnails = -1 must be at least 0"),
        (
            ["--perplexity", "200"],
            "perplexity 200 needs at least 601 images, and there are 360; take perplexity 119 or",
        ),
        (["--images", "12", "--method", "umap"], "umap with 15 neighbours needs at least 16 images, and there are 12"),
        (["--stages", "stage1", "pool"], "has no stage 'pool'; did you mean 'pooled'"),
        (
            ["--out", str(tmp_path / "mine")],
            "mine belongs to something else than maps: it holds thesis.tex. Choose a new",
        ),
        (
            ["--out", str(tmp_path / "mine" / "thesis.tex")],
            "thesis.tex belongs to something else than maps: it is a file",
        ),
    ):
        with pytest.raises(SystemExit, match=text):
            cli.main([*words, *more])
    assert not (tmp_path / "m").exists(), "said before the work"
