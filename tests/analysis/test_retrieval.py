"""Recall and mean average precision beside a plain computation and scikit-learn's."""

import jax
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from resnet_jax.analysis import search
from resnet_jax.analysis.retrieval import retrieval
from resnet_jax.errors import DataError
from resnet_jax.runtime.mesh import make_mesh

pytestmark = pytest.mark.usefixtures("compile_quickly")


def some(count=133):
    """Classes of different sizes, the last with one image."""
    rng = np.random.default_rng(0)
    labels = rng.choice(6, count, p=[0.3, 0.3, 0.2, 0.1, 0.05, 0.05])
    labels[17] = 9
    features = rng.normal(size=(10, 8))[labels] * 0.6 + rng.normal(size=(count, 8))
    return features.astype(np.float32), labels


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_numbers_are_those_of_a_plain_computation(monkeypatch, metric):
    monkeypatch.setattr(search, "BLOCK_BYTES", 4 * 133 * 20)
    features, labels = some()
    found = retrieval(features, labels, metric=metric, mesh=make_mesh(jax.devices()[:2]))
    x = features.astype(np.float64)
    if metric == "cosine":
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    precisions, at_r, hits = [], [], {1: 0, 5: 0, 10: 0}
    for query in range(len(labels)):
        others = np.delete(np.arange(len(labels)), query)
        near = -np.linalg.norm(x[others] - x[query], axis=1)
        same = labels[others] == labels[query]
        if not same.any():
            continue
        precisions.append(average_precision_score(same, near))
        ranked = same[np.argsort(-near)]
        size = same.sum()
        at_r.append(sum(ranked[: i + 1].mean() for i in range(size) if ranked[i]) / size)
        for k in hits:
            hits[k] += ranked[:k].any()
    assert found.mean_average_precision == pytest.approx(np.mean(precisions), abs=1e-9)
    assert found.map_at_r == pytest.approx(np.mean(at_r), abs=1e-9)
    assert found.recall == pytest.approx({k: count / len(at_r) for k, count in hits.items()})
    assert (found.queries, found.alone) == (132, 1)
    assert 0.1 < found.map_at_r < found.mean_average_precision < 0.9
    assert 0.1 < found.recall[1] < found.recall[5] < 1


def test_images_that_are_equally_near_have_no_order():
    """As scikit-learn has it, in whatever order they come."""
    features = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    labels = np.array([0, 0, 1, 1, 0, 1, 1, 1, 2, 2, 0, 2])
    rng = np.random.default_rng(0)
    right = [
        average_precision_score(np.delete(labels == labels[i], i), np.delete(features @ features[i], i))
        for i in range(12)
    ]
    found = retrieval(features, labels)
    assert found.mean_average_precision == pytest.approx(np.mean(right))
    order = rng.permutation(12)
    assert retrieval(features[order], labels[order]) == found
    assert found.recall[1] == 0, "of three that are equally near, one or more are of another class"
    assert retrieval(features, np.repeat([0, 1, 2], 4)).recall[1] == 1


def test_too_few_images():
    features, labels = some()
    with pytest.raises(
        DataError, match="recall@10 needs at least 11 images, the query and 10 others, and there are 10"
    ):
        retrieval(features[:10], labels[:10])
    with pytest.raises(DataError, match="each of the 12 classes has one image, so no image has another of its class"):
        retrieval(features[:12], np.arange(12))
