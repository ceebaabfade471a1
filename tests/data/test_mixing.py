"""MixUp and CutMix: torchvision's and timm's arithmetic for the same draws, their laws by statistics."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from resnet_jax.config import AugmentConfig
from resnet_jax.data.mixing import mix

pytestmark = pytest.mark.usefixtures("compile_quickly")

SIDES = (12, 17)
GROUPS = 1500


def draw(groups=GROUPS, size=4, sides=SIDES, **options):
    """Mixes many groups whose images are constant, each of its own value, with targets that name the image.

    Returns images (groups, size, H, W) and targets (groups, size, size).
    """
    images = jnp.tile(jnp.arange(size, dtype=jnp.float32).reshape(1, size, 1, 1, 1), (groups, 1, *sides, 1))
    targets = jnp.tile(jnp.eye(size)[None], (groups, 1, 1))
    config = AugmentConfig(mix_group_size=size, **options)
    flat = images.reshape(-1, *sides, 1), targets.reshape(-1, size)
    mixed = jax.jit(partial(mix, config=config))(jax.random.key(0), *flat)
    return np.asarray(mixed[0]).reshape(groups, size, *sides), np.asarray(mixed[1]).reshape(groups, size, size)


def own_weights(targets):
    """The weight of each group's images in their own targets, which must be one number for a group."""
    own = np.diagonal(targets, axis1=1, axis2=2)
    np.testing.assert_array_equal(own, np.broadcast_to(own[:, :1], own.shape))
    return own[:, 0]


def boxes_of(mask):
    rows, columns = mask.any(2), mask.any(1)
    top, left = rows.argmax(1), columns.argmax(1)
    height, width = rows.sum(1), columns.sum(1)
    np.testing.assert_array_equal(mask.sum((1, 2)), height * width)
    return np.stack([top, left, height, width], axis=1)


@pytest.mark.parametrize("law", ["torchvision", "timm"])
def test_partners_are_those_of_the_law(law):
    _, targets = draw(groups=5, mixup_alpha=1.0, mix_law=law)
    expected = {"torchvision": [3, 0, 1, 2], "timm": [3, 2, 1, 0]}[law]
    for target in targets:
        for image, partner in enumerate(expected):
            assert np.flatnonzero(target[image]).tolist() == sorted([image, partner])


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_mixup_weights_follow_beta(alpha):
    images, targets = draw(mixup_alpha=alpha, sides=(2, 3))
    weights = own_weights(targets)
    np.testing.assert_allclose(targets.sum(-1), 1, atol=1e-6)
    assert stats.kstest(weights, stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    expected = np.einsum("gij,j->gi", targets, np.arange(4))
    np.testing.assert_allclose(images, np.broadcast_to(expected[..., None, None], images.shape), atol=1e-5)


@pytest.mark.parametrize("law", ["torchvision", "timm"])
def test_cutmix_boxes_have_the_distribution_of_the_law(torchvision, law):
    images, targets = draw(cutmix_alpha=1.0, mix_law=law)
    pasted = images[:, 0] != 0
    boxes = boxes_of(pasted)
    # Targets have the weight of the clipped box, exactly.
    np.testing.assert_allclose(own_weights(targets), 1 - pasted.mean((1, 2)), atol=1e-6)
    if law == "torchvision":
        import torch
        from torchvision.transforms.v2 import CutMix

        torch.manual_seed(0)
        cutmix, like = CutMix(num_classes=4), [torch.zeros(4, 1, *SIDES)]
        found = [cutmix.make_params(like)["box"] for _ in range(GROUPS)]
        expected = np.array([(y1, x1, y2 - y1, x2 - x1) for x1, y1, x2, y2 in found])
    else:
        from timm.data.mixup import rand_bbox

        np.random.seed(0)
        found = [rand_bbox((1, *SIDES), np.random.beta(1, 1)) for _ in range(GROUPS)]
        expected = np.array([(yl, xl, yh - yl, xh - xl) for yl, yh, xl, xh in found])
    expected[(expected[:, 2:] == 0).any(1)] = 0  # an empty box has no place
    for column in range(4):
        assert stats.ks_2samp(boxes[:, column], expected[:, column]).pvalue > 1e-3, "(top, left, height, width)"
    assert stats.ks_2samp(boxes[:, 2] * boxes[:, 3], expected[:, 2] * expected[:, 3]).pvalue > 1e-3


def fixed_draws(monkeypatch, weight, centre, cut):
    monkeypatch.setattr("resnet_jax.data.mixing._draw_beta", lambda key, alpha: jnp.float32(weight))
    monkeypatch.setattr(jax.random, "randint", lambda key, shape, low, high: jnp.array(centre))
    monkeypatch.setattr(jax.random, "bernoulli", lambda key, p: jnp.array(cut if p == 0.5 else True))


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize(("weight", "centre"), [(0.3, (5, 9)), (0.81, (0, 16)), (0.02, (11, 0)), (1.0, (3, 3))])
def test_the_same_draws_give_torchvisions_images_and_targets(torchvision, monkeypatch, cut, weight, centre):
    import torch
    from torchvision.transforms.v2 import CutMix, MixUp

    rng = np.random.default_rng(0)
    images = rng.normal(size=(6, *SIDES, 3)).astype(np.float32)
    labels = rng.integers(0, 5, 6)
    theirs = (CutMix if cut else MixUp)(num_classes=5)
    theirs._dist = type("Fixed", (), {"sample": lambda self, shape: torch.tensor([weight])})()
    draws = iter([torch.tensor([centre[1]]), torch.tensor([centre[0]])])  # column first
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randint", lambda *args, **kwargs: next(draws))
        expected = theirs(torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels))
    fixed_draws(monkeypatch, weight, centre, cut)
    config = AugmentConfig(mixup_alpha=0.2, cutmix_alpha=1.0)
    ours = mix(jax.random.key(0), jnp.asarray(images), jnp.eye(5)[labels], config)
    np.testing.assert_allclose(ours[0], expected[0].permute(0, 2, 3, 1).numpy(), atol=1e-6)
    np.testing.assert_allclose(ours[1], expected[1].numpy(), atol=1e-6)


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize(("weight", "centre"), [(0.3, (5, 9)), (0.81, (0, 16)), (0.02, (11, 0))])
def test_the_same_draws_give_timms_images_and_targets(torchvision, monkeypatch, cut, weight, centre):
    import torch
    from timm.data.mixup import Mixup

    rng = np.random.default_rng(0)
    images = rng.normal(size=(6, *SIDES, 3)).astype(np.float32)
    labels = rng.integers(0, 5, 6)
    theirs = Mixup(mixup_alpha=0.2, cutmix_alpha=1.0, switch_prob=0.5, label_smoothing=0.0, num_classes=5)
    draws = iter(centre)
    with monkeypatch.context() as patch:
        patch.setattr(np.random, "beta", lambda *args, **kwargs: weight)
        patch.setattr(np.random, "rand", lambda *args: 0.0 if cut else 0.9)
        patch.setattr(np.random, "randint", lambda *args, **kwargs: next(draws))
        x = torch.from_numpy(images).permute(0, 3, 1, 2).clone()
        expected = theirs(x, torch.from_numpy(labels))
    fixed_draws(monkeypatch, weight, centre, cut)
    config = AugmentConfig(mixup_alpha=0.2, cutmix_alpha=1.0, mix_law="timm")
    ours = mix(jax.random.key(0), jnp.asarray(images), jnp.eye(5)[labels], config)
    np.testing.assert_allclose(ours[0], expected[0].permute(0, 2, 3, 1).numpy(), atol=1e-6)
    np.testing.assert_allclose(ours[1], expected[1].numpy(), atol=1e-6)


def test_one_of_the_two_is_drawn_for_each_group():
    images, _ = draw(mixup_alpha=8.0, cutmix_alpha=1.0, cutmix_share=0.3)
    blended = np.array([np.any((group % 1 > 1e-3) & (group % 1 < 1 - 1e-3)) for group in images])
    assert abs(blended.mean() - 0.7) < 0.04  # 3 standard deviations


def test_some_groups_stay_as_they_are():
    images, targets = draw(mixup_alpha=8.0, mix_probability=0.4)
    mixed = own_weights(targets) < 1
    assert abs(mixed.mean() - 0.4) < 0.04
    np.testing.assert_array_equal(images[~mixed].std((2, 3)), 0)
    np.testing.assert_array_equal(images[~mixed][:, :, 0, 0], np.tile(np.arange(4.0), ((~mixed).sum(), 1)))


def test_the_whole_batch_is_the_default_group():
    images, targets = jnp.arange(6.0).reshape(6, 1, 1, 1), jnp.eye(6)
    _, mixed = mix(jax.random.key(0), images, targets, AugmentConfig(mixup_alpha=1.0))
    weight = float(mixed[0, 0])
    np.testing.assert_allclose(mixed, weight * np.eye(6) + (1 - weight) * np.roll(np.eye(6), 1, axis=0), atol=1e-6)
