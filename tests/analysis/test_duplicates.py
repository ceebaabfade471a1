"""Copies that are planted are found, and nothing else."""

import json

import numpy as np
import pytest

from resnet_jax import cli
from resnet_jax.analysis.duplicates import duplicates
from resnet_jax.errors import DataError

from .tiny import save_weights

pytestmark = pytest.mark.usefixtures("compile_quickly", "short_runs")


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A file whose test images 3 and 7 are training images 20 and 11, and test image 9 is image 5 a little brighter."""
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 200, (count, 8, 8, 1), np.uint8) for count in (60, 30))
    test[3], test[7], test[9] = train[20], train[11], train[5] * 1.05 + 6
    test[7, 0, 0] ^= 3  # as another JPEG may
    path = tmp_path_factory.mktemp("planted") / "planted.npz"
    arrays = {"train_images": train, "train_labels": np.arange(60) % 2, "test_images": test}
    np.savez(path, **arrays, test_labels=np.arange(30) % 2, class_names=["a", "b"])
    return path


def test_what_is_planted_is_found_and_nothing_else(planted, tmp_path, capsys):
    words = ["duplicates", *save_weights(tmp_path), "--data.name", f"npz:{planted}", "--batch-size", "60"]
    words += ["--stage", "stage1", "--whole-maps", "--out", str(tmp_path / "d.png"), "--features", str(tmp_path / "f")]
    cli.main([*words, "--as-json"])
    printed = json.loads(capsys.readouterr().out)
    found = {(pair["first"], pair["second"]): pair for pair in printed["pairs"]}
    assert set(found) == {(20, 3), (11, 7), (5, 9)}
    assert [found[pair]["same_pixels"] for pair in ((20, 3), (11, 7), (5, 9))] == [True, True, False]
    assert found[20, 3]["cosine"] == pytest.approx(1, abs=1e-6)
    assert 0.99 < found[5, 9]["cosine"] < 0.9999
    assert found[5, 9]["difference"] == pytest.approx(10, abs=3)
    assert printed["median"] < 0.98
    assert (tmp_path / "d.png").read_bytes().startswith(b"\x89PNG")

    cli.main([*words, "--threshold", "0.9999"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "2 pairs at or above 0.9999, 2 of them with the same pixels. The picture is in" in shown
    assert "train 20 and test 3: 1.0000, the same pixels" in shown
    (tmp_path / "d.png").unlink()
    cli.main([*words, "--threshold", "1", "--stage", "logits", "--features", str(tmp_path / "other"), "--as-json"])
    assert (tmp_path / "d.png").exists() == bool(json.loads(capsys.readouterr().out)["pairs"])


def test_images_with_more_partners_than_are_looked_at():
    rng = np.random.default_rng(0)
    first = _features("first", {"data": 1}, np.repeat(rng.normal(size=(3, 9)), 20, axis=0))
    second = _features("second", {"data": 2}, first["pooled"][[0, 45]])
    grey = lambda places: np.full((len(places), 2, 2, 1), 9, np.uint8)
    found = duplicates(first, second, "pooled", (grey, grey))
    assert (len(found.pairs), found.cut_off) == (20, 2)
    assert all(pair.same_pixels for pair in found.pairs)


def test_what_cannot_be_meant(planted, tmp_path):
    words = ["duplicates", *save_weights(tmp_path), "--data.name", f"npz:{planted}", "--out", str(tmp_path / "d.png")]
    for more, text in (
        (["--threshold", "1.5"], "--threshold = 1.5 is no cosine between 0 and 1, such as 0.99"),
        (["--out", str(tmp_path / "no" / "d.png")], "cannot write .*d.png: there is no folder"),
        (["--data.eval-split", "train", "--batch-size", "60"], "hold features of the same images, .*; name two splits"),
    ):
        with pytest.raises(SystemExit, match=text):
            cli.main([*words, *more])
    first, second = (_features(name, {"weights": name, "data": name}, np.eye(3)) for name in ("one", "two"))
    with pytest.raises(
        DataError, match="one and two hold features of other weights, and cannot be compared; make both"
    ):
        duplicates(first, second, "pooled", (np.zeros, np.zeros))


class _Kept(dict):
    """What `duplicates` uses of a folder of features."""


def _features(folder, of, rows):
    kept = _Kept(pooled=rows)
    kept.folder, kept.of, kept.labels = folder, of, np.zeros(len(rows), int)
    return kept
