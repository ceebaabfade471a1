"""The numbers of verification against scikit-learn's and against plain loops, with scores that are often equal."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_curve
from sklearn.model_selection import KFold

from resnet_jax.errors import DataError
from resnet_jax.tasks.embed.measure import report, verified
from resnet_jax.tasks.embed.verification import (
    FALSE_ACCEPT_RATES,
    LEAST_ACCEPTED,
    curve,
    draw_pairs,
    identification,
    looked_at,
    ten_folds,
)


def scores_with_ties(count=400, seed=0, share=0.4):
    rng = np.random.default_rng(seed)
    same = rng.random(count) < share
    return np.round(rng.normal(np.where(same, 0.5, 0.1), 0.3).clip(-1, 1), 2), same


def unit_vectors(count, size=8, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, size))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(4))
def test_the_curve_is_scikit_learns(seed):
    scores, same = scores_with_ties(seed=seed)
    found = curve(scores, same)
    false, accepted, thresholds = roc_curve(same, scores, drop_intermediate=False)
    assert len(np.unique(scores)) < len(scores) / 2, "most scores are equal to others"
    np.testing.assert_array_equal(found.thresholds, thresholds[1:])  # it begins with a threshold that nothing reaches
    np.testing.assert_allclose(found.false, false[1:], rtol=0, atol=1e-15)
    np.testing.assert_allclose(found.accepted, accepted[1:], rtol=0, atol=1e-15)
    assert found.others == (~same).sum()


@pytest.mark.parametrize("seed", range(4))
def test_accepted_at_a_rate(seed):
    """Plainly: of all thresholds at which the rate is not exceeded, the one that accepts the most."""
    scores, same = scores_with_ties(4000, seed)
    found = curve(scores, same)
    for rate in (0.5, 0.1, 0.03, 0.01, LEAST_ACCEPTED / found.others):
        allowed = [
            (np.mean(scores[same] >= at), at) for at in np.unique(scores) if np.mean(scores[~same] >= at) <= rate
        ]
        most = max(share for share, _ in allowed)
        share, threshold = found.at(rate)
        assert share == most
        assert np.mean(scores[~same] >= threshold) <= rate
        assert np.mean(scores[same] >= threshold) == most


def test_nothing_is_accepted_where_the_highest_score_is_of_too_many_others():
    scores, same = np.array([0.9] * 40 + [0.1] * 60), np.array([False] * 40 + [True] * 10 + [False] * 50)
    share, threshold = curve(scores, same).at(0.2)
    assert share == 0
    assert threshold > 0.9


def test_a_rate_needs_ten_false_accepts():
    scores, same = scores_with_ties(2000)
    found = curve(scores, same)
    assert found.at(LEAST_ACCEPTED / found.others) is not None
    assert found.at((LEAST_ACCEPTED - 0.001) / found.others) is None
    numbers = report({}, {"embedding": unit_vectors(60), "label": np.arange(60) % 6})
    assert {name for name in numbers if name.startswith("tar")} == {"tar_0.1", "tar_0.01"}  # of 1500 pairs of others
    assert 1500 * 0.01 >= LEAST_ACCEPTED > 1500 * 0.001
    assert FALSE_ACCEPT_RATES[:3] == (0.1, 0.01, 0.001)


@pytest.mark.parametrize("seed", range(4))
def test_equal_error_rate(seed):
    """Plainly: at the threshold where the two rates of errors are nearest, their mean."""
    scores, same = scores_with_ties(seed=seed)
    errors = [(np.mean(scores[~same] >= at), np.mean(scores[same] < at)) for at in np.unique(scores)[::-1]]
    false, refused = min(errors, key=lambda pair: abs(pair[0] - pair[1]))
    assert curve(scores, same).equal_error == pytest.approx((false + refused) / 2, abs=1e-15)


@pytest.mark.parametrize("count", [600, 103])
def test_ten_folds_are_insightfaces(count):
    """Its `calculate_roc` (arcface_torch/eval/verification.py), written down again; parts of unequal size too."""
    rng = np.random.default_rng(count)
    first, same = unit_vectors(count), rng.random(count) < 0.5
    second = unit_vectors(count, seed=1) + 0.8 * first * same[:, None]
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    distances, thresholds = np.sum((first - second) ** 2, axis=1), np.arange(0, 4, 0.01)
    right = lambda threshold, part: np.mean((distances[part] < threshold) == same[part])
    accuracies = []
    for train, test in KFold(10, shuffle=False).split(np.arange(count)):
        best = np.argmax([right(threshold, train) for threshold in thresholds])
        accuracies.append(right(thresholds[best], test))
    mean, deviation = ten_folds(np.sum(first * second, axis=1), same)
    assert 0.6 < mean < 1
    assert mean == pytest.approx(np.mean(accuracies), abs=1e-12)
    assert deviation == pytest.approx(np.std(accuracies), abs=1e-12)


def test_identification_is_that_of_a_plain_loop():
    """Vectors that are there twice are equally near; one identity has a single image."""
    vectors = unit_vectors(40, size=3)
    vectors[20:30] = vectors[:10]
    labels = np.append(np.random.default_rng(1).integers(0, 5, 39), 9)
    first, precisions = [], []
    for query in range(40):
        others = np.delete(np.arange(40), query)
        relevant = labels[others] == labels[query]
        if relevant.any():
            cosines = vectors[others] @ vectors[query]
            first.append(cosines[relevant].max() > cosines[~relevant].max())
            precisions.append(average_precision_score(relevant, cosines))
    rank1, precision = identification(vectors, labels)
    assert len(first) == 39
    assert rank1 == pytest.approx(np.mean(first), abs=1e-12)
    assert precision == pytest.approx(np.mean(precisions), abs=1e-12)


def test_pairs_of_a_set_with_labels():
    labels = np.arange(200) % 10
    pairs, same = draw_pairs(labels, 1000)
    again, _ = draw_pairs(labels, 1000)
    np.testing.assert_array_equal(pairs, again)
    assert len({tuple(pair) for pair in pairs.tolist()}) == len(pairs) == 1000
    assert (pairs[:, 0] < pairs[:, 1]).all()
    np.testing.assert_array_equal(same, labels[pairs[:, 0]] == labels[pairs[:, 1]])
    assert [part.sum() for part in np.array_split(same, 10)] == [50] * 10
    few, kinds = draw_pairs(np.array([0, 0, 1, 1, 2]), 1000)
    assert len(few) == 4  # two pairs of one identity, and as many others
    assert kinds.sum() == 2


def test_a_large_set_is_looked_at_in_part(monkeypatch):
    monkeypatch.setattr("resnet_jax.tasks.embed.verification.MOST_IMAGES", 50)
    labels = np.arange(200) % 20
    kept = looked_at(labels)
    assert len(kept) == 50
    assert len(np.unique(labels[kept])) == 5, "whole identities"
    np.testing.assert_array_equal(looked_at(labels[:50]), np.arange(50))


def test_pairs_and_labels_are_measured_alike():
    """A split of pairs, examples 2i and 2i + 1, has the numbers of the same pairs by hand."""
    vectors, same = unit_vectors(400), np.repeat(np.arange(200) % 2, 2)
    found = verified({"embedding": vectors, "same": same})
    scores = np.sum(vectors[::2] * vectors[1::2], axis=1)
    assert (found.numbers["accuracy"], found.numbers["deviation"]) == ten_folds(scores, same[::2] == 1)
    assert found.numbers["loss"] == curve(scores, same[::2] == 1).equal_error
    assert "rank1" not in found.numbers
    assert (found.images, len(found.scores)) == (400, 200)


def test_embeddings_that_are_not_finite():
    vectors = unit_vectors(20)
    vectors[3, 1], vectors[7] = np.nan, np.inf
    with pytest.raises(DataError, match="^2 of 20 embeddings are not finite; training may have diverged. Use an ear"):
        report({}, {"embedding": vectors, "label": np.arange(20) % 2})
