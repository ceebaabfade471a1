"""Losses and accuracies against PyTorch and against sorting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import Classify, Config, DataConfig, ModelConfig
from resnet_jax.errors import ConfigError
from resnet_jax.tasks.classify.look import make_look
from resnet_jax.tasks.classify.loss import of_logits
from resnet_jax.tasks.classify.task import classify
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


@pytest.mark.parametrize("sum_classes", [False, True])
@pytest.mark.parametrize("threshold", [None, 0.0, 0.2])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("share", [1.0, 0.7, 0.15])
def test_the_binary_loss_is_timms_in_float64(torchvision, share, smoothing, threshold, sum_classes):
    """Also its gradient; of labels, which timm smooths in the loss, and of mixtures, which it smooths before."""
    import torch
    from timm.data.mixup import mixup_target
    from timm.loss import BinaryCrossEntropy

    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 5, (7, 13)), torch.from_numpy(rng.integers(0, 13, 7))
    theirs = BinaryCrossEntropy(smoothing=smoothing, target_threshold=threshold, sum_classes=sum_classes)
    given = torch.from_numpy(logits).requires_grad_()
    mixed = mixup_target(labels, 13, lam=share, smoothing=smoothing).double()
    expected = theirs(given, labels if share == 1 else mixed)
    expected.backward()
    options = Classify(loss="binary", label_smoothing=smoothing, target_threshold=threshold, sum_classes=sum_classes)
    with jax.enable_x64(True):
        plain = share * one_hot(jnp.asarray(labels.numpy()), 13) + (1 - share) * one_hot(
            jnp.asarray(labels.numpy()[::-1].copy()), 13
        )
        loss, gradient = jax.value_and_grad(lambda x: of_logits(options)(x, plain.astype(jnp.float64)).mean())(logits)
    # timm's targets are made in float32.
    np.testing.assert_allclose(loss, float(expected.detach()), rtol=1e-7)
    np.testing.assert_allclose(gradient, given.grad.numpy(), rtol=1e-6, atol=1e-8)


def test_options_of_the_binary_loss_are_refused_elsewhere():
    for options in ({"target_threshold": 0.2}, {"sum_classes": True}):
        with pytest.raises(ConfigError, match=r"are for loss = 'binary', and loss = 'cross_entropy'; leave them out"):
            Classify(**options)


def test_a_flipped_evaluation_is_the_mean_of_both_logits():
    class FirstColumn:
        def apply(self, variables, images, *, train):
            return images[:, :, 0, 0] * variables

    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 5, 1)))
    both = make_look(FirstColumn(), flip=True)(2.0, images)
    np.testing.assert_allclose(both, images[:, :, 0, 0] + images[:, :, -1, 0], rtol=1e-6)
    np.testing.assert_allclose(make_look(FirstColumn())(2.0, images), 2 * images[:, :, 0, 0], rtol=1e-6)


def test_evaluation_and_prediction_see_both_mirror_images():
    class FirstRow:
        num_classes = 8

        def apply(self, variables, images, *, train):
            return images[:, 0, :, 0] * variables

    config = Config(
        task=Classify(eval_flip=True),
        model=ModelConfig(num_classes=8),
        data=DataConfig(image_size=8, eval_resize=8, channels=1, mean=(0.3,), std=(0.2,)),
    )
    task = classify(config, FirstRow())
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    batch = {"image": jnp.asarray(images), "label": jnp.arange(5)}
    row = (images[:, 0, :, 0] / 255 - 0.3) / 0.2
    logits = row + row[:, ::-1]  # half of the sum, times the variable
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(task.predict(2.0, batch)["probability"], shares, rtol=1e-4)
    sums = task.measure(2.0, batch, jnp.ones(5, bool)).sums
    assert float(sums["loss"]) == pytest.approx(-np.log(shares[range(5), range(5)]).sum(), rel=1e-4)


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
