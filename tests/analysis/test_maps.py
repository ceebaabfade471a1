"""Maps: what the libraries are given, the numbers beside them, and what cannot be mapped."""

import jax
import numpy as np
import openTSNE
import pytest
import umap
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score

from resnet_jax.analysis import logistic, search
from resnet_jax.analysis.maps import embed as module
from resnet_jax.analysis.maps import numbers
from resnet_jax.analysis.maps.embed import check_count, embed, reduced
from resnet_jax.analysis.maps.maps import check_possible, make_maps, sample_of
from resnet_jax.analysis.maps.numbers import measure
from resnet_jax.analysis.neighbours import knn_predict
from resnet_jax.analysis.probe import held_out, probe_features
from resnet_jax.errors import ConfigError, DataError
from resnet_jax.runtime.mesh import make_mesh

pytestmark = pytest.mark.usefixtures("compile_quickly")


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Eight virtual devices on few cores wait for each other."""
    for using in (logistic, search):
        monkeypatch.setattr(using, "make_mesh", lambda: make_mesh(jax.devices()[:1]))


def some(count=120, width=12, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    features = rng.normal(size=(classes, width))[labels] * 0.8 + rng.normal(size=(count, width))
    return features.astype(np.float32), labels


class Kept(dict):
    """What maps use of a folder of features."""

    def __init__(self, folder, labels, arrays, of=()):
        super().__init__(arrays)
        self.folder, self.labels, self.class_names = folder, labels, tuple("abcdefgh")
        self.of = {"data": 1, "kind_of_features": "means", **dict(of)}


class Caught:
    """Stands for a method of a library: keeps what it is given, and returns points that can be told."""

    def __init__(self, name):
        self.name, self.options, self.given = name, None, []

    def __call__(self, **options):
        self.options = options
        return self

    def fit(self, features, initialization):
        self.given.append((features, initialization))
        return features[:, :2] + 1

    def fit_transform(self, features):
        self.given.append((features, None))
        return features[:, :2] + 2


@pytest.mark.parametrize(("width", "neighbours"), [(12, "auto"), (1500, "exact")])
def test_tsne_gets_exactly_the_features(monkeypatch, width, neighbours):
    features, _ = some(width=width)
    caught = Caught("tsne")
    monkeypatch.setattr(openTSNE, "TSNE", caught)
    found = embed(features, "tsne", seed=3, perplexity=20)
    ((given, start),) = caught.given
    np.testing.assert_array_equal(given, features)
    np.testing.assert_array_equal(found, features[:, :2] + 1)
    assert start.shape == (120, 2)
    assert start[:, 0].std() == pytest.approx(1e-4, rel=0.05)
    components = PCA(2).fit_transform(features)
    assert abs(np.corrcoef(start[:, 0], components[:, 0])[0, 1]) > 0.99
    wanted = {"perplexity": 20, "learning_rate": 200, "early_exaggeration": 12, "early_exaggeration_iter": 250}
    assert caught.options == {**wanted, "neighbors": neighbours, "random_state": 3, "n_jobs": 1}
    embed(np.tile(features, (30, 1)), "tsne", seed=3, perplexity=20)
    assert caught.options["learning_rate"] == 300, "a twelfth of 3,600"


def test_umap_gets_exactly_the_features(monkeypatch):
    features, _ = some()
    caught = Caught("umap")
    monkeypatch.setattr(umap, "UMAP", caught)
    found = embed(features, "umap", seed=5)
    np.testing.assert_array_equal(caught.given[0][0], features)
    np.testing.assert_array_equal(found, features[:, :2] + 2)
    assert caught.options == {"n_neighbors": 15, "min_dist": 0.1, "random_state": 5, "n_jobs": 1}


def test_pca_is_the_plain_one():
    features, _ = some()
    centred = (features - features.mean(axis=0)).astype(np.float64)
    right = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    found = embed(features, "pca")
    np.testing.assert_allclose(np.abs(found), np.abs(right), atol=1e-4)


def test_the_same_seed_gives_the_same_bytes():
    features, labels = some()
    first, again, other = (embed(features, "tsne", perplexity=10, seed=seed) for seed in (0, 0, 1))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()
    assert silhouette_score(first, labels) > 0.1, "classes lie together"


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_by_umap():
    features, labels = some()
    first, again, other = (embed(features, "umap", seed=seed) for seed in (0, 0, 1))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()
    assert silhouette_score(first, labels) > 0.1


def test_wide_features_become_their_principal_components(monkeypatch):
    features, _ = some(width=30)
    maps = features.reshape(120, 2, 3, 5)
    np.testing.assert_array_equal(reduced(maps), features)
    monkeypatch.setattr(module, "WIDE", 29)
    monkeypatch.setattr(module, "KEPT", 6)
    found = reduced(maps)
    np.testing.assert_allclose(np.abs(found[:, :2]), np.abs(PCA(6).fit_transform(features))[:, :2], atol=0.02)
    assert found.shape == (120, 6)
    monkeypatch.setattr(module, "WIDE_BYTES", 4 * 30 * 70)
    with pytest.raises(
        DataError, match="120 images of 30 features take 14.4 KB, and PCA .*; --images 70 takes a sample"
    ):
        reduced(maps)


def test_numbers_are_of_the_features(monkeypatch):
    features, labels = some(classes=3)
    found = measure(features, labels, seed=1)
    others = [np.delete(np.arange(120), i) for i in range(120)]
    voted = [knn_predict(features[o], labels[o], features[i : i + 1])[0] for i, o in enumerate(others)]
    assert found.knn == pytest.approx(np.mean(voted == labels))
    assert found.silhouette == pytest.approx(silhouette_score(features.astype(np.float64), labels), abs=1e-5)
    half = held_out(labels, 0.5, 1)
    assert 50 < half.sum() < 70
    right = sum(
        probe_features(features[a], labels[a], features[b], labels[b], seed=1).accuracy * b.sum()
        for a, b in ((half, ~half), (~half, half))
    )
    assert found.probe == pytest.approx(right / 120)
    assert 0.4 < found.probe < 1
    monkeypatch.setattr(numbers, "SILHOUETTE_IMAGES", 50)
    sampled = measure(features, labels, seed=1)
    assert (found.silhouette_images, sampled.silhouette_images) == (120, 50)
    assert sampled.silhouette != found.silhouette
    assert sampled.silhouette == pytest.approx(found.silhouette, abs=0.1)


def test_panels_are_of_the_stages_and_the_images_that_were_asked_for(monkeypatch):
    features, labels = some()
    later, _ = some(width=7, seed=9)
    monkeypatch.setattr("resnet_jax.analysis.maps.maps.measure", lambda x, y, seed: (x, y, seed))
    first = Kept("one", labels, {"stage1": features, "pooled": later})
    second = Kept("two", labels, {"stage1": later, "pooled": features})
    told = []
    found = make_maps(
        [("first", first), ("second", second)],
        ("stage1", "pooled"),
        "pca",
        images=70,
        seed=4,
        tell=lambda *now: told.append(now),
    )
    places = sample_of(labels, 70, 4)
    assert len(places) == 70 == len(set(places.tolist()))
    assert places.tolist() == sorted(places)
    assert places.tolist() != sample_of(labels, 70, 5).tolist()
    np.testing.assert_array_equal(found.places, places)
    np.testing.assert_array_equal(found.labels, labels[places])
    for row, (title, kept) in zip(found.rows, (("first", first), ("second", second)), strict=True):
        for panel, stage in zip(row, ("stage1", "pooled"), strict=True):
            assert (panel.network, panel.stage, panel.width) == (title, stage, kept[stage].shape[1])
            np.testing.assert_array_equal(panel.numbers[0], kept[stage][places])
            np.testing.assert_array_equal(panel.points, embed(kept[stage][places], "pca", seed=4))
    assert told == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


def test_what_cannot_be_mapped(monkeypatch):
    features, labels = some()
    for count, method, perplexity, text in (
        (
            90,
            "tsne",
            30,
            "tsne with perplexity 30 needs at least 91 images, and there are 90; take perplexity 29 or less",
        ),
        (
            3,
            "tsne",
            1,
            "tsne with perplexity 1 needs at least 4 images, and there are 3; bring more images, or map them by",
        ),
        (
            15,
            "umap",
            30,
            "umap with 15 neighbours needs at least 16 images, and there are 15; bring more images, or map",
        ),
        (2, "pca", 30, "pca needs at least 3 images, and there are 2; bring more images"),
        (
            20_001,
            "tsne",
            30,
            "20,001 images are too many for a map by tsne, which takes at most 20,000 here; --images 5000",
        ),
    ):
        with pytest.raises(DataError, match=text):
            check_count(count, method, perplexity)
    check_count(91, "tsne", 30)
    with pytest.raises(ConfigError, match="perplexity = 0.5 must be at least 1; 30 is usual"):
        check_count(100, "tsne", 0.5)
    with pytest.raises(DataError, match="the features of all 120 images are the same, and nothing can be mapped"):
        embed(features * 0 + 7, "pca")
    with pytest.raises(DataError, match="120 images of 1 class are no task for a classifier"):
        make_maps([("one", Kept("one", labels * 0, {"pooled": features}))], ("pooled",), "pca")
    for counts, text in (((50, 1), "50 and 1 image"), ((3, 3, 3), "3 and 3 images")):
        few = np.repeat(np.arange(len(counts)), counts)
        with pytest.raises(
            DataError, match=rf"the two largest classes have {text}\. .* of at least 4 images and another"
        ):
            check_possible(few, "pca", 30)
    smallest = np.repeat([0, 1, 2], [4, 2, 1])
    check_possible(smallest, "pca", 30)
    assert 0 <= measure(features[:7], smallest).probe <= 1
    one, two = (Kept(name, labels, {"pooled": features}, {"data": name}) for name in ("one", "two"))
    with pytest.raises(DataError, match="one and two hold features of other data, and cannot be compared; make both"):
        make_maps([("one", one), ("two", two)], ("pooled",), "pca")

    def missing(name, *rest):
        if name in ("openTSNE", "umap"):
            raise ImportError(f"No module named {name!r}")
        return imported(name, *rest)

    imported = module.import_module
    monkeypatch.setattr(module, "import_module", missing)
    for method, name in (("tsne", "openTSNE"), ("umap", "umap")):
        with pytest.raises(
            ConfigError,
            match=rf"maps by {method} need {name}.*pip install 'resnet-jax-linen\[maps\]'; --method pca needs",
        ):
            embed(features, method)
    assert embed(features, "pca").shape == (120, 2)
