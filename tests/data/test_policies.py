"""RandAugment and TrivialAugmentWide: torchvision's operators on PIL images, to the byte, draw by draw."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from resnet_jax.config import AugmentConfig
from resnet_jax.data.policies import apply_operation, apply_policy, rand_augment, rand_space, wide_space
from resnet_jax.data.policies import trivial_augment_wide as trivial
from resnet_jax.data.policy_timm import OPERATIONS, rand_augment_timm
from resnet_jax.errors import ConfigError


def picture(height, width, channels=3, seed=0):
    """Smooth areas and edges, as a photograph has them, and some noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    mixed = np.clip(smooth + rng.normal(0, 10, smooth.shape), 0, 255).astype(np.uint8)
    return mixed[..., :channels]


def to_pil(image):
    return Image.fromarray(np.ascontiguousarray(image.squeeze(-1) if image.shape[-1] == 1 else image))


def torchvision_space(torchvision, wide, size):
    from torchvision.transforms import RandAugment, TrivialAugmentWide

    if wide:
        return TrivialAugmentWide()._augmentation_space(31)
    return RandAugment()._augmentation_space(31, size)


@pytest.mark.parametrize("wide", [True, False])
def test_strengths_are_torchvisions_to_the_bit(torchvision, wide):
    sides = [1, 7, 8, 32, 65, 97, 160, 176, 224, 331, 500]
    for height, width in zip(sides, reversed(sides), strict=True):
        expected = torchvision_space(torchvision, wide, (height, width))
        ours = wide_space() if wide else rand_space(height, width)
        assert list(ours) == list(expected)
        for name, (values, signed) in expected.items():
            assert ours[name].values == tuple(map(float, values.reshape(-1).tolist())), name
            assert ours[name].signed == signed


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", list(wide_space()))
def test_every_operation_is_torchvisions_to_the_byte(torchvision, name, channels):
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.autoaugment import _apply_op

    strengths = wide_space()[name]
    for height, width in ((33, 47), (24, 24)):
        image = picture(height, width, channels)
        spaces = [strengths, rand_space(height, width)[name]]
        for strength in {s for space in spaces for s in space.values[::5]}:
            for sign in (1, -1) if strengths.signed else (1,):
                expected = _apply_op(to_pil(image), name, sign * strength, InterpolationMode.BILINEAR, None)
                ours = apply_operation(name, image, sign * strength)
                assert ours.dtype == np.uint8
                np.testing.assert_array_equal(ours, np.asarray(expected).reshape(image.shape))


def torch_draws(torch):
    """torch's generator behind the method of NumPy's that is used, so that both sides draw the same numbers."""
    return SimpleNamespace(integers=lambda low, high: int(torch.randint(low, high, (1,))))


@pytest.mark.parametrize("channels", [1, 3])
def test_whole_policies_follow_torchvision_draw_by_draw(torchvision, channels):
    import torch
    from torchvision.transforms import InterpolationMode, RandAugment, TrivialAugmentWide

    draws, bilinear = torch_draws(torch), InterpolationMode.BILINEAR
    image = picture(40, 33, channels)
    for seed in range(150):
        cases = [
            (TrivialAugmentWide(interpolation=bilinear), lambda: trivial(image, draws)),
            (RandAugment(3, seed % 31, interpolation=bilinear), lambda: rand_augment(image, draws, 3, seed % 31)),
        ]
        for theirs, ours in cases:
            torch.manual_seed(seed)
            expected = np.asarray(theirs(to_pil(image))).reshape(image.shape)
            torch.manual_seed(seed)
            np.testing.assert_array_equal(ours(), expected)


def test_numpys_draws_are_uniform_over_operations(monkeypatch):
    """With the generator that is really used: each of the 14 operations, each strength and either sign as often."""
    calls = []
    monkeypatch.setattr(
        "resnet_jax.data.policies.apply_operation", lambda name, image, s: calls.append((name, s)) or image
    )
    rng, image = np.random.default_rng(0), picture(8, 8)
    for _ in range(14 * 400):
        trivial(image, rng)
    counts = np.array([count for _, count in sorted(Counter(name for name, _ in calls).items())])
    assert len(counts) == 14
    assert ((counts - 400) ** 2 / 400).sum() < 34.5, "beyond the 0.1 % quantile for 13 degrees of freedom"
    rotations = np.array([strength for name, strength in calls if name == "Rotate"])
    assert abs((rotations > 0).mean() - 0.5) < 0.08
    assert abs(np.abs(rotations).mean() - 135 / 2) < 8
    assert len(np.unique(np.abs(rotations))) == 31


def test_policies_by_name():
    image = picture(16, 16)
    same = lambda **options: [
        np.array_equal(
            apply_policy(image, np.random.default_rng(seed), AugmentConfig(**options), (124, 116, 104)), image
        )
        for seed in range(60)
    ]
    assert all(same(policy="none"))
    assert 0 < sum(same(policy="trivial_augment_wide")) < 20
    assert 0 < sum(same(policy="rand_augment", rand_operations=1, rand_magnitude=30)) < 20
    assert 0 < sum(same(policy="rand_augment_timm", rand_magnitude=9)) < 40
    # Without strength, what is left is Identity, AutoContrast, Equalize and operations that do nothing.
    assert sum(same(policy="rand_augment", rand_operations=1, rand_magnitude=0)) > 30


@pytest.mark.parametrize(("recipe", "operations", "magnitude", "spread"), [
    ("rand-m7-mstd0.5-inc1", 2, 7, 0.5), ("rand-m6-n3-mstd0.5-inc1", 3, 6, 0.5), ("rand-m9-inc1", 2, 9, 0.0),
])  # fmt: skip
def test_timms_policy_is_followed_draw_by_draw(torchvision, monkeypatch, recipe, operations, magnitude, spread):
    """To the byte, with the interpolation drawn as well. Both sides draw from one kind of generator."""
    from timm.data import auto_augment

    colour, image = (124, 116, 104), picture(40, 33)
    theirs = auto_augment.rand_augment_transform(recipe, {"translate_const": 14, "img_mean": colour})
    changed = set()
    for seed in range(300):
        rng = np.random.default_rng(seed)
        draws = SimpleNamespace(
            random=rng.random, gauss=rng.normal, choice=lambda options: options[int(rng.integers(0, len(options)))]
        )
        monkeypatch.setattr(auto_augment, "random", draws)
        chosen = lambda ops, count, **_: [ops[int(rng.integers(0, len(ops)))] for _ in range(count)]
        monkeypatch.setattr(auto_augment.np.random, "choice", chosen)
        expected = np.asarray(theirs(to_pil(image)))
        ours = rand_augment_timm(image, np.random.default_rng(seed), operations, magnitude, spread, colour)
        np.testing.assert_array_equal(ours, expected)
        changed.add(ours.tobytes())
    assert len(changed) > 60, "the test should see many operations"
    assert list(OPERATIONS) == [
        name.replace("Increasing", "").replace("Rel", "") for name in auto_augment._RAND_INCREASING_TRANSFORMS
    ]


def test_timms_policy_on_grey_images():
    image = picture(40, 33, 1)
    for seed in range(60):
        ours = rand_augment_timm(image, np.random.default_rng(seed), 2, 9, 0.5, (99,))
        assert (ours.shape, ours.dtype) == (image.shape, np.uint8)


@pytest.mark.parametrize(("options", "text"), [
    ({"policy": "rand_augment_timm", "rand_magnitude": 12}, "rand_magnitude = 12 must be at most 10 for policy"),
    ({"policy": "rand_augment", "rand_spread": 0.5}, "rand_spread = 0.5 is for policy = 'rand_augment_timm'"),
])  # fmt: skip
def test_strengths_of_another_policy_are_refused(options, text):
    with pytest.raises(ConfigError, match=text):
        AugmentConfig(**options)
