"""Logistic regression beside scikit-learn's, on features like those of a network."""

import itertools

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from resnet_jax.analysis import lbfgs, logistic
from resnet_jax.analysis.logistic import fit
from resnet_jax.errors import ConfigError, DataError
from resnet_jax.runtime.mesh import make_mesh

CS = (1e-4, 1e-2, 1.0, 100.0)


def features_of(width=40, classes=5, count=301):
    """Not negative, correlated, most of them 0, one far from the origin; some classes are rare. No number of devices
    divides the count."""
    rng = np.random.default_rng(0)
    share = np.arange(1, classes + 1) / np.arange(1, classes + 1).sum()
    labels = rng.choice(classes, count, p=share)
    scale = np.arange(1, 25) ** -0.7
    hidden = 0.7 * rng.normal(size=(classes, 24))[labels] * scale + rng.normal(size=(count, 24)) * scale
    features = np.maximum(hidden @ rng.normal(size=(24, width)) + 0.3 * rng.normal(size=(count, width)) - 0.5, 0)
    features[:, 0] += 30
    return features.astype(np.float32), labels


def objective(features, labels, classes, weights, intercept, c):
    """scikit-learn's, in float64, divided by C times the number of rows, written as in its documentation."""
    logits = features.astype(np.float64) @ weights.T.astype(np.float64) + intercept
    losses = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(labels)), np.searchsorted(classes, labels)]
    return (c * losses.sum() + (weights.astype(np.float64) ** 2).sum() / 2) / (c * len(labels))


def peer_of(features, labels, c):
    """By Newton's method, which needs fewer steps to the same optimum than scikit-learn's L-BFGS."""
    solver = LogisticRegression(C=c, tol=1e-10, max_iter=1000, solver="newton-cholesky")
    return solver.fit(features.astype(np.float64), labels)


@pytest.mark.parametrize(("kind", "rank"), [("float32", 256), ("float64", 16)])
def test_the_optimum_is_scikit_learns(monkeypatch, kind, rank):
    """With all eigenvalues of the Gram matrix in the model of the Hessian, and with fewer."""
    monkeypatch.setattr(lbfgs, "RANK", rank)
    features, labels = features_of()
    exact = kind == "float64"
    with jax.enable_x64(exact):
        ours = fit(features.astype(kind), labels, CS, tolerance=1e-14 if exact else 1e-10)
    assert ours.weights.dtype == kind
    assert ours.solved.all()
    assert ours.steps.max() < (500 if exact else 150)
    others, _ = features_of(count=2000)
    for i, c in enumerate(CS):
        peer = peer_of(features, labels, c)
        mine = objective(features, labels, ours.classes, ours.weights[i], ours.intercept[i], c)
        theirs = objective(features, labels, peer.classes_, peer.coef_, peer.intercept_, c)
        assert mine == pytest.approx(ours.objective[i], rel=1e-9 if exact else 1e-4)
        assert abs(mine - theirs) < (1e-10 if exact else 1e-6)
        assert np.mean(ours.predict(others)[i] == peer.predict(others)) >= 0.999
        if exact:
            np.testing.assert_allclose(ours.weights[i], peer.coef_, atol=1e-4 * np.abs(peer.coef_).max())
            np.testing.assert_allclose(ours.bias[i].sum(), 0, atol=1e-9)


def test_two_classes_are_penalised_as_by_scikit_learn():
    features, labels = features_of(classes=2)
    ours = fit(features, labels, CS)
    for i, c in enumerate(CS):
        peer = peer_of(features, labels, c)
        weights = ours.weights[i, 1] - ours.weights[i, 0]
        np.testing.assert_allclose(weights, peer.coef_[0], atol=5e-3 * np.abs(peer.coef_).max())
        np.testing.assert_allclose(ours.logits(features)[i] @ [-1, 1], peer.decision_function(features), atol=0.02)


def test_labels_with_gaps_keep_their_names():
    features, labels = features_of()
    names = np.array([3, 7, 8, 40, 41])
    ours = fit(features, names[labels], CS)
    assert ours.classes.tolist() == names.tolist()
    np.testing.assert_array_equal(ours.predict(features), names[fit(features, labels, CS).predict(features)])


def test_units_and_origin_of_the_features_change_nothing():
    """Features times s with C / s^2 are the same problem. So are features of another origin, since the intercept is
    free; and features turned by an orthogonal matrix."""
    features, labels = features_of()
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 40)))
    plain = fit(features, labels, CS).logits(features)
    for changed, s in ((features * 1000, 1000), (features / 1000, 1e-3), (features + 5, 1), (features @ turn, 1)):
        changed = changed.astype(np.float32)
        other = fit(changed, labels, [c / s**2 for c in CS])
        np.testing.assert_allclose(other.logits(changed)[:3], plain[:3], atol=0.02)


def test_devices_agree():
    features, labels = features_of()
    one, four = (fit(features, labels, CS, mesh=make_mesh(jax.devices()[:n])) for n in (1, 4))
    np.testing.assert_allclose(one.objective, four.objective, rtol=1e-4)
    np.testing.assert_allclose(one.logits(features)[:3], four.logits(features)[:3], atol=0.02)
    np.testing.assert_array_equal(one.predict(features), four.predict(features))


def test_parts_of_the_grid_are_the_whole_grid(monkeypatch):
    features, labels = features_of()
    whole = fit(features, labels, CS)
    solved = []
    solve = lbfgs.minimise
    monkeypatch.setattr(lbfgs, "minimise", lambda p, *rest: solved.append(len(p.penalty)) or solve(p, *rest))
    monkeypatch.setattr(logistic, "PROBLEM_BYTES", 2 * 4 * 5 * (8 * 304 + 2 * lbfgs.HISTORY * 41))
    parts = fit(features, labels, CS)
    assert solved == [2, 2]
    np.testing.assert_allclose(parts.objective, whole.objective, rtol=1e-5)
    np.testing.assert_array_equal(parts.cs, whole.cs)


def test_separable_classes_come_to_an_end():
    """The loss has no minimum of its own there, and probabilities come within rounding of 1."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = (10 * np.eye(3)[labels] + 0.1 * rng.normal(size=(60, 3))).astype(np.float32)
    ours = fit(features, labels, [1e8])
    with jax.enable_x64(True):
        exact = fit(features.astype(np.float64), labels, [1e8], tolerance=1e-14)
    peer = peer_of(features, labels, 1e8)
    mine, mine_exact, theirs = (
        objective(features, labels, range(3), w, b, 1e8)
        for w, b in (
            (ours.weights[0], ours.intercept[0]),
            (exact.weights[0], exact.intercept[0]),
            (peer.coef_, peer.intercept_),
        )
    )
    assert ours.solved.all()
    assert 1e-10 < theirs < 1e-8
    assert mine <= theirs * 1.00001
    assert mine == pytest.approx(mine_exact, rel=1e-5)
    assert mine == pytest.approx(ours.objective[0], rel=1e-4)
    assert (ours.predict(features)[0] == labels).all()


def test_too_few_steps_are_reported(caplog):
    features, labels = features_of()
    ours = fit(features, labels, CS, max_steps=8)
    assert ours.solved.tolist() == [True, False, False, False]
    assert "with C = 0.01, 1, 100 has not reached its optimum after 8 steps" in caplog.text


@pytest.mark.parametrize(("name", "value"), list(itertools.product(["float16", "float32"], [np.nan, np.inf])))
def test_features_that_are_not_finite(name, value):
    features, labels = features_of(4, 3, 5000)
    features = features.astype(name)
    features[[4500, 4711], 2] = value
    with pytest.raises(DataError, match="the features of 2 of 5000 images, the first of them image 4500, are not fin"):
        fit(features, labels, [1.0])


def test_what_is_no_problem():
    features, labels = features_of(4, 3, 20)
    with pytest.raises(DataError, match="20 images of 1 class are no task for a classifier; choose .* at least two"):
        fit(features, np.zeros(20, int), [1.0])
    with pytest.raises(DataError, match="0 images of 0 classes are no task"):
        fit(features[:0], labels[:0], [1.0])
    for cs in ([], [1.0, 0.0], [-1.0], [np.nan], [np.inf]):
        with pytest.raises(ConfigError, match="at least one value, all positive; correct them"):
            fit(features, labels, cs)
