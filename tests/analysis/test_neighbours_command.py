"""The command that shows neighbours."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from resnet_jax import cli
from resnet_jax.analysis.store import open_features
from resnet_jax.commands import neighbours as module

from .tiny import save_weights

pytestmark = pytest.mark.usefixtures("compile_quickly", "short_runs")


def test_the_sheet_shows_the_nearest_and_the_numbers_are_printed(tmp_path, capsys, monkeypatch):
    drawn = {}
    draw = module.draw_grid
    monkeypatch.setattr(
        module, "draw_grid", lambda *args, **more: (drawn.update(args=args, **more), draw(*args, **more))
    )
    words = [*save_weights(tmp_path), "--data.name", "digits", "--batch-size", "360", "--out", str(tmp_path / "n.png")]
    words += ["--split", "test", "--features", str(tmp_path / "kept"), "--stage", "stage2"]
    cli.main(["neighbours", *words, "--queries", "5", "--nearest", "3", "--as-json"])
    printed = json.loads(capsys.readouterr().out)
    assert (printed["images"], printed["queries"], printed["metric"], printed["stage"]) == (
        360,
        360,
        "cosine",
        "stage2",
    )
    kept = open_features(tmp_path / "kept")
    peer = NearestNeighbors(n_neighbors=3, metric="cosine", algorithm="brute").fit(kept["stage2"]).kneighbors()[1]
    assert printed["recall"]["1"] == pytest.approx(np.mean(kept.labels[peer[:, 0]] == kept.labels), abs=0.003)
    images, captions = drawn["args"][:2]
    assert len(images) == len(captions) == len(drawn["frames"]) == 20
    assert drawn["columns"] == 4
    for row in range(5):
        query = int(captions[4 * row].split()[-1])
        assert captions[4 * row] == f"{kept.labels[query]}\nimage {query}"
        assert drawn["frames"][4 * row] is None
        for rank, place in enumerate(peer[query], 4 * row + 1):
            right = kept.labels[place] == kept.labels[query]
            assert captions[rank].startswith(f"{'✓' if right else '✗'} {kept.labels[place]}\n")
            assert drawn["frames"][rank] == ("#0072b2" if right else "#d55e00")
    assert len({caption[0] for caption in captions} & {"✓", "✗"}) == 2
    with Image.open(tmp_path / "n.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    for colour in ((0, 0x72, 0xB2), (0xD5, 0x5E, 0)):
        assert (pixels == colour).all(axis=1).sum() > 500

    cli.main(["neighbours", *words, "--metric", "euclidean", "--queries", "1"])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines()[:-1])) <= 80
    assert "recall@10" in shown
    assert "over 360 queries. The picture is in" in " ".join(shown.split())


def test_a_picture_that_cannot_be_written(tmp_path, monkeypatch):
    """As users who are not root meet it."""
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(SystemExit, match="cannot write .*n.png: it is not allowed there. Choose another place"):
        cli.main(["neighbours", "runs/none", "--out", str(tmp_path / "n.png")])


def test_what_cannot_be_meant(tmp_path):
    words = ["neighbours", *save_weights(tmp_path), "--data.name", "digits", "--out", str(tmp_path / "n.png")]
    images = np.random.default_rng(0).integers(0, 255, (10, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "few.npz", test_images=images, test_labels=np.arange(10) % 2, class_names=["a", "b"])
    few = ["--data.name", f"npz:{tmp_path}/few.npz", "--split", "test"]
    for more, text in (
        (["--queries", "0"], "--queries = 0 must be at least 1"),
        (["--nearest", "-1"], "--nearest = -1 must be at least 1"),
        (["--seed", "-1"], "--seed = -1 must be at least 0"),
        (
            ["--queries", "100", "--nearest", "9"],
            "100 queries with 9 neighbours are 1000 images, and a sheet has room for",
        ),
        (["--out", str(tmp_path / "n.jpg")], "n.jpg would be a PNG; give a file name that ends in .png"),
        (["--stage", "pool"], "has no stage 'pool'; did you mean 'pooled'"),
        (few, "recall@10 needs at least 11 images, the query and 10 others, and there are 10; bring more"),
    ):
        with pytest.raises(SystemExit, match=text):
            cli.main([*words, *more])
