"""Nearest neighbours beside scikit-learn's."""

import jax
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from resnet_jax.analysis import search
from resnet_jax.analysis.neighbours import knn_predict
from resnet_jax.errors import DataError
from resnet_jax.runtime.mesh import make_mesh


def some(seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(5, 12))
    labels = rng.integers(0, 5, 400)
    features = (np.maximum(centres[labels] + rng.normal(size=(400, 12)), 0) * rng.uniform(0.1, 9, (400, 1))).astype("f")
    return features[:300], labels[:300], features[300:]


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (20, 0.001), (300, 1.0)])
def test_votes_are_scikit_learns(monkeypatch, devices, k, temperature):
    known, labels, queries = some()
    monkeypatch.setattr(
        search, "BLOCK_BYTES", 4 * 300 * 17
    )  # 17 queries in a block on each device, and some in the last
    mesh = make_mesh(jax.devices()[:devices])
    ours = knn_predict(known, labels, queries, neighbours=k, temperature=temperature, mesh=mesh)
    # Its distance is 1 - cosine. A common factor of the weights changes nothing.
    weights = lambda distance: np.exp(-(distance - distance.min(axis=1, keepdims=True)) / temperature)
    peer = KNeighborsClassifier(k, weights=weights, metric="cosine", algorithm="brute")
    theirs = peer.fit(known.astype(np.float64), labels).predict(queries.astype(np.float64))
    assert np.mean(ours == theirs) == 1
    assert len(np.unique(ours)) > 2


def test_length_does_not_count_and_zeros_are_allowed():
    known, labels, queries = some()
    plain = knn_predict(known, labels, queries)
    np.testing.assert_array_equal(knn_predict(known * 1e4, labels, queries.astype(np.float16) * 3), plain)
    known[0] = queries[0] = 0
    np.testing.assert_array_equal(
        knn_predict(known, labels, queries)[1:], knn_predict(known[1:], labels[1:], queries)[1:]
    )


def test_too_few_images():
    known, labels, queries = some()
    with pytest.raises(DataError, match="20 neighbours cannot be found among 19 images; ask for at most 19"):
        knn_predict(known[:19], labels[:19], queries)
