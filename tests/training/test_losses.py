"""Losses and accuracies against PyTorch and against sorting."""

import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.training.losses import cross_entropy, in_top_k, one_hot


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchs(smoothing):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 5, (7, 13)).astype(np.float32), rng.integers(0, 13, 7)
    loss = torch.nn.CrossEntropyLoss(label_smoothing=smoothing, reduction="none")
    expected = loss(torch.from_numpy(logits), torch.from_numpy(labels))
    ours = cross_entropy(logits, one_hot(jnp.asarray(labels), 13), smoothing)
    np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_mixed_targets_is_torchs_and_timms(torchvision, smoothing):
    import torch
    from timm.data.mixup import mixup_target
    from timm.loss import SoftTargetCrossEntropy

    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 5, (7, 13)).astype(np.float32), torch.from_numpy(rng.integers(0, 13, 7))
    targets = mixup_target(labels, 13, lam=0.3)
    ours = cross_entropy(logits, jnp.asarray(targets.numpy()), smoothing)
    loss = torch.nn.CrossEntropyLoss(label_smoothing=smoothing, reduction="none")
    np.testing.assert_allclose(ours, loss(torch.from_numpy(logits), targets).numpy(), rtol=1e-5)
    # timm smooths before it mixes, which is the same.
    theirs = SoftTargetCrossEntropy()(torch.from_numpy(logits), mixup_target(labels, 13, lam=0.3, smoothing=smoothing))
    assert np.mean(ours) == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_top_k_is_what_sorting_says(k):
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(50, 13)).astype(np.float32), rng.integers(0, 13, 50)
    expected = [label in np.argsort(-row)[:k] for row, label in zip(logits, labels, strict=True)]
    np.testing.assert_array_equal(in_top_k(logits, labels, k), expected)


def test_ties_and_nans_are_no_free_hits():
    """A dead network, with all logits equal, guesses one class; a diverged one guesses none."""
    labels = jnp.arange(4)
    np.testing.assert_array_equal(in_top_k(jnp.zeros((4, 4)), labels, 1), [1, 0, 0, 0])
    np.testing.assert_array_equal(in_top_k(jnp.full((4, 4), jnp.nan), labels, 1), [0, 0, 0, 0])
