"""Losses and results of segmentation beside torch, segmentation_models_pytorch and plain references."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from resnet_jax.config import Segment
from resnet_jax.errors import ConfigError
from resnet_jax.parity.reference import import_torchvision
from resnet_jax.tasks.segment.loss import loss_of_logits
from resnet_jax.tasks.segment.losses import cross_entropy, dice, focal
from resnet_jax.tasks.segment.measure import confusion, make_score, starts
from resnet_jax.tasks.segment.report import iou, results

pytestmark = pytest.mark.usefixtures("compile_quickly")

N, H, W, K = 3, 9, 7, 5


@pytest.fixture(scope="module")
def batch():
    """Logits and masks with very unequal numbers of ignored pixels, the last image without any class."""
    rng = np.random.default_rng(0)
    logits, masks = rng.normal(size=(N, H, W, K)) * 3, rng.integers(0, K, (N, H, W))
    masks[0, 1:] = 255
    masks[1, :, ::3] = 255
    masks[2] = 255
    return logits, masks


def in_torch(logits, masks):
    return torch.from_numpy(logits.transpose(0, 3, 1, 2).copy()).requires_grad_(), torch.from_numpy(masks)


@pytest.mark.parametrize("weights", [(), (0.5, 0.0, 2.0, 1.0, 3.0)])
def test_cross_entropy_is_that_of_torch(batch, weights):
    with jax.enable_x64():
        logits, masks = map(jnp.asarray, batch)
        mean = lambda logits: (lambda total, weight: jnp.sum(total) / jnp.sum(weight))(
            *cross_entropy(logits, masks, weights)
        )
        value, gradient = jax.value_and_grad(mean)(logits)
    x, y = in_torch(*batch)
    peer = torch.nn.CrossEntropyLoss(torch.tensor(weights, dtype=x.dtype) if weights else None, ignore_index=255)(x, y)
    peer.backward()
    np.testing.assert_allclose(value, peer.item(), rtol=1e-6)  # weights are float32
    np.testing.assert_allclose(gradient, x.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-6, atol=1e-12)
    assert not np.asarray(gradient[2]).any()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss(batch, gamma):
    logits, masks = batch
    shares = torch.softmax(torch.from_numpy(logits), -1).numpy()
    own = np.take_along_axis(shares, np.where(masks < K, masks, 0)[..., None], -1)[..., 0]
    right = np.where(masks < K, -((1 - own) ** gamma) * np.log(own), 0).sum(axis=(1, 2))
    with jax.enable_x64():
        total, weight = focal(jnp.asarray(logits), jnp.asarray(masks), gamma=gamma)
        gradient = jax.grad(lambda x: jnp.sum(focal(x, jnp.asarray(masks), gamma=gamma)[0]))(jnp.asarray(logits) * 100)
    np.testing.assert_allclose(total, right, rtol=1e-6)
    np.testing.assert_array_equal(weight, (masks < K).sum(axis=(1, 2)))
    assert np.isfinite(gradient).all(), "where the probability is 1"


def test_dice_of_each_image_is_that_of_smp(batch):
    import_torchvision()
    from segmentation_models_pytorch.losses import DiceLoss

    logits, masks = batch
    total, weight = dice(jnp.asarray(logits, jnp.float32), jnp.asarray(masks))
    x, y = in_torch(*batch)
    for i in range(2):
        # Its mean is over all classes; those that are not there count 0.
        there = len(np.unique(masks[i][masks[i] < K]))
        peer = DiceLoss("multiclass", ignore_index=255)(x[i : i + 1], y[i : i + 1]).item() * K / there
        assert total[i] / weight[i] == pytest.approx(peer, rel=1e-5)
    assert total[2] == weight[2] == 0


def test_losses_by_name(batch):
    logits, masks = jnp.asarray(batch[0], jnp.float32), jnp.asarray(batch[1])
    both = loss_of_logits(Segment(loss="cross_entropy+dice"))(logits, masks)
    np.testing.assert_allclose(both[0], cross_entropy(logits, masks)[0] + dice(logits, masks)[0], rtol=1e-6)
    np.testing.assert_array_equal(both[1], dice(logits, masks)[1])
    flat = loss_of_logits(Segment(loss="focal", focal_gamma=0.0))(logits, masks)
    np.testing.assert_allclose(flat[0], cross_entropy(logits, masks)[0], rtol=1e-5)
    for options, text in (
        ({"loss": "dice", "class_weights": (1.0, 2.0)}, "class_weights are for the cross-entropy and the focal loss"),
        ({"min_scale": 3.0}, "min_scale = 3.0 must be at most max_scale = 2.0; exchange them"),
    ):
        with pytest.raises(ConfigError, match=text):
            Segment(**options)


class ConfusionMatrix:
    """torchvision's, references/segmentation/utils.py, as plain NumPy."""

    def __init__(self, truth, said):
        known = (truth >= 0) & (truth < K)
        self.mat = np.bincount(K * truth[known] + said[known], minlength=K * K).reshape(K, K)

    def compute(self):
        h = self.mat.astype(float)
        return np.diag(h).sum() / h.sum(), np.diag(h) / (h.sum(1) + h.sum(0) - np.diag(h))


def test_results_are_those_of_torchvision(batch):
    rng, masks = np.random.default_rng(1), batch[1]
    said = np.where(rng.random(masks.shape) < 0.5, np.where(masks < K, masks, 0), rng.integers(0, K, masks.shape))
    counted = np.asarray(confusion(jnp.asarray(masks), jnp.asarray(said), K))
    peer = ConfusionMatrix(masks, said)
    np.testing.assert_array_equal(counted, peer.mat)
    right, of_class = peer.compute()
    found = results(counted, 1.5, "abcde")
    assert found["pixel_accuracy"] == pytest.approx(right)
    assert found["miou"] == pytest.approx(of_class.mean())
    assert [found[f"iou/{name}"] for name in "abcde"] == pytest.approx(of_class.tolist())
    assert found["loss"] == 1.5


def test_a_class_that_does_not_occur():
    counted = np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    assert np.isnan(iou(counted)[2])
    found = results(counted, 0.0, "abc")
    assert found["miou"] == pytest.approx((3 / 4 + 4 / 5) / 2)
    assert "iou/c" not in found
    assert results(np.zeros((2, 2), int), 0.0, "ab")["miou"] == 0


@pytest.mark.parametrize(("side", "window"), [(10, 10), (9, 10), (11, 10), (97, 32), (520, 128), (33, 32)])
def test_windows_cover_a_side(side, window):
    places = starts(side, window)
    assert places[0] == 0
    assert places[-1] == max(0, side - window)
    assert all(0 < b - a <= -(-2 * window // 3) for a, b in pairwise(places))


class Pixelwise:
    """A network that looks at each pixel alone, but for where it lies."""

    def apply(self, variables, images, *, train):
        return {"out": images @ variables + jnp.linspace(0, 1, images.shape[2])[None, None, :, None] * self.slope}

    slope = 0.0


def test_scores_of_windows_and_mirror_images():
    rng = np.random.default_rng(0)
    images, variables = jnp.asarray(rng.normal(size=(2, 23, 17, 3))), jnp.asarray(rng.normal(size=(3, 4)))
    model = Pixelwise()
    whole = jax.nn.log_softmax(make_score(model)(variables, images))
    for options in ({"flip": True}, {"window": 9}, {"window": 9, "flip": True}, {"window": 64}):
        np.testing.assert_allclose(make_score(model, **options)(variables, images), whole, atol=1e-5)
    model.slope = jnp.arange(4.0)[None, None, None]
    straight, mirrored = (
        jax.nn.softmax(model.apply(variables, x, train=False)["out"]) for x in (images, images[:, :, ::-1])
    )
    right = jnp.log((straight + mirrored[:, :, ::-1]) / 2)
    np.testing.assert_allclose(make_score(model, flip=True)(variables, images), right, atol=1e-5)
    assert np.abs(right - jax.nn.log_softmax(make_score(model)(variables, images))).max() > 0.01
