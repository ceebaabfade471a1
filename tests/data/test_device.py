import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from resnet_jax.config import AugmentConfig, DataConfig, Preset
from resnet_jax.data import augment, normalize
from resnet_jax.data.device import erase

pytestmark = pytest.mark.usefixtures("compile_quickly")

GREY = {"channels": 1, "mean": (0.0,), "std": (1.0,)}


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def to_bytes(images):
    return np.round(np.asarray(images) * 255).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_normalize_is_torchvisions(torchvision, channels):
    from torchvision.transforms import Compose, Normalize, ToTensor

    mean, std = (0.485, 0.456, 0.406)[:channels], (0.229, 0.224, 0.225)[:channels]
    images = noise(3, 7, 5, channels)
    to_torch = Compose([ToTensor(), Normalize(mean, std)])
    expected = np.stack([to_torch(image).permute(1, 2, 0).numpy() for image in images])
    result = jax.jit(partial(normalize, preset=Preset(mean=mean, std=std)))(images)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, atol=1e-6)


def seen(key, images, config):
    """The images that `augment` makes, without the targets."""
    labels = jnp.zeros(len(images), jnp.int32)
    return jax.jit(partial(augment, config=config, num_classes=3))(key, images, labels)[0]


def test_nothing_changes_where_nothing_is_asked():
    images, labels = noise(4, 6, 6, 1), jnp.array([0, 2, 1, 2])
    config = DataConfig(augment=AugmentConfig(flip=False), **GREY)
    result, targets = augment(jax.random.key(0), images, labels, config, 3)
    np.testing.assert_allclose(result, normalize(images, config.preset), atol=1e-7)
    np.testing.assert_array_equal(targets, np.eye(3)[labels])
    assert targets.dtype == jnp.float32


def test_every_other_image_is_mirrored():
    images = noise(1000, 4, 5, 1)
    result = to_bytes(seen(jax.random.key(0), images, DataConfig(**GREY)))
    mirrored = (result == images[:, :, ::-1]).all((1, 2, 3))
    assert (mirrored | (result == images).all((1, 2, 3))).all()
    assert abs(mirrored.mean() - 0.5) < 0.05  # 3 standard deviations


def test_shifts_are_uniform_and_repeat_the_border():
    image = noise(6, 5, 1)
    config = DataConfig(augment=AugmentConfig(shift_pixels=2, flip=False), **GREY)
    results = to_bytes(seen(jax.random.key(0), np.tile(image, (2000, 1, 1, 1)), config))
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="edge")
    windows = np.array([[padded[y : y + 6, x : x + 5] for x in range(5)] for y in range(5)]).reshape(25, *image.shape)
    matches = (results[:, None] == windows[None]).all((2, 3, 4))
    np.testing.assert_array_equal(matches.sum(1), 1)
    chi_square = ((matches.sum(0) - 80) ** 2 / 80).sum()
    assert chi_square < 51.2, "beyond the 0.1 % quantile for 24 degrees of freedom"


def erased_boxes(height, width, count, **options):
    """`(top, left, height, width)` of what was erased from each of many images of ones; zeros where nothing was."""
    config = AugmentConfig(**{"erase_probability": 1.0, **options})
    keys = jax.random.split(jax.random.key(0), count)
    images = jax.jit(jax.vmap(partial(erase, config=config), (0, None)))(keys, jnp.ones((height, width, 1)))
    erased = np.asarray(images)[..., 0] != 1
    boxes = []
    for mask in erased:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            boxes.append((0, 0, 0, 0))
            continue
        box = (rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1)
        assert mask[box[0] : box[0] + box[2], box[1] : box[1] + box[3]].all(), "a rectangle has no holes"
        boxes.append(box)
    return np.array(boxes)


@pytest.mark.parametrize("size", [(32, 32), (20, 44)])
def test_erasing_has_torchvisions_distribution(torchvision, size):
    import torch
    from scipy.stats import ks_2samp
    from torchvision.transforms import RandomErasing

    torch.manual_seed(0)
    image = torch.ones(1, *size)
    expected = np.array([RandomErasing.get_params(image, (0.02, 0.33), (0.3, 3.3), [0.0])[:4] for _ in range(3000)])
    ours = erased_boxes(*size, 3000)
    assert (ours[:, 2:] < size).all()
    for column in range(4):
        assert ks_2samp(ours[:, column], expected[:, column]).pvalue > 1e-3, f"column {column} of (top, left, h, w)"
    assert ks_2samp(ours[:, 2] / ours[:, 3], expected[:, 2] / expected[:, 3]).pvalue > 1e-3


def test_erasing_happens_as_often_as_asked_and_with_what_is_asked():
    share = (erased_boxes(16, 16, 2000, erase_probability=0.25)[:, 2] > 0).mean()
    assert abs(share - 0.25) < 0.03  # 3 standard deviations
    config = AugmentConfig(erase_probability=1.0, erase_with="noise")
    image = np.asarray(erase(jax.random.key(0), jnp.full((64, 64, 3), 9.0), config))
    values = image[image != 9]
    assert len(values) > 200
    assert abs(values.mean()) < 0.3
    assert abs(values.std() - 1) < 0.2
    # A single pixel: no rectangle is smaller than the image, and nothing happens.
    assert not erased_boxes(1, 1, 50).any()


def test_keys_of_either_kind_and_different_keys():
    images, config = noise(8, 6, 6, 3), DataConfig(augment=AugmentConfig(shift_pixels=1))
    new_style = seen(jax.random.key(1), images, config)
    np.testing.assert_array_equal(new_style, seen(jax.random.PRNGKey(1), images, config))
    assert not np.array_equal(new_style, seen(jax.random.key(2), images, config))


def test_an_image_is_changed_by_its_place_alone():
    """So that a batch may be cut anywhere."""
    images = noise(8, 6, 6, 3)
    config = DataConfig(augment=AugmentConfig(shift_pixels=1, brightness=0.4, erase_probability=0.5))
    together = seen(jax.random.key(1), images, config)
    np.testing.assert_allclose(seen(jax.random.key(1), images[:3], config), together[:3], atol=1e-5)


EVERYTHING = AugmentConfig(
    shift_pixels=2,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    lighting=0.1,
    erase_probability=0.5,
    erase_with="noise",
    mixup_alpha=0.5,
    cutmix_alpha=1.0,
    mix_group_size=2,
)


def on_eight_and_on_one(options):
    """What `augment` makes on eight devices and on one, and the program of the eight."""
    assert jax.device_count() == 8
    mesh = Mesh(np.array(jax.devices()), ("data",))
    images, labels, key = noise(16, 9, 7, 3), np.arange(16, dtype=np.int32), jax.random.key(3)
    split = NamedSharding(mesh, PartitionSpec("data"))
    everywhere = jax.device_put(key, NamedSharding(mesh, PartitionSpec()))
    step = jax.jit(partial(augment, config=DataConfig(augment=options), num_classes=16))
    on_eight = (everywhere, jax.device_put(images, split), jax.device_put(labels, split))
    program = step.lower(*on_eight).compile()
    return program(*on_eight), step(key, images, labels), program.as_text()


COLLECTIVES = r" (all-\w+|collective\S*|reduce-scatter)\("


@pytest.mark.parametrize("options", [AugmentConfig(shift_pixels=2), EVERYTHING], ids=["bytes", "everything"])
def test_devices_agree_and_do_not_communicate(options):
    on_eight, on_one, program = on_eight_and_on_one(options)
    # The same random numbers; the last bits of floats depend on how each program fuses its arithmetic.
    for ours, theirs in zip(on_eight, on_one, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
    assert "u8[2,9,7,3]" in program, "each device must work on its own two images"
    assert not re.findall(COLLECTIVES, program)


@pytest.mark.parametrize(("law", "images"), [("torchvision", 1), ("timm", 2)])
def test_mixing_over_the_whole_batch_sends_as_little_as_it_can(law, images):
    """A device gets one image and one target of its neighbour; timm's law mirrors the batch, so all it has."""
    on_eight, on_one, program = on_eight_and_on_one(AugmentConfig(mixup_alpha=0.5, cutmix_alpha=1.0, mix_law=law))
    for ours, theirs in zip(on_eight, on_one, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
    assert re.findall(COLLECTIVES, program) == ["collective-permute"] * 2
    assert re.search(rf"f32\[1,{images},9,7,3\]\S* collective-permute\(", program)


@pytest.mark.slow
def test_a_part_of_a_batch_is_seen_as_in_the_whole():
    """Draws belong to places in the global batch: of images, and of the groups that are mixed."""
    options = AugmentConfig(shift_pixels=1, erase_probability=0.5, mixup_alpha=0.5, cutmix_alpha=1.0, mix_group_size=2)
    see = jax.jit(partial(augment, config=DataConfig(**GREY, augment=options), num_classes=3))
    images, labels, key = noise(8, 6, 6, 1), jnp.arange(8) % 3, jax.random.key(3)
    whole = see(key, images, labels)
    part = see(key, images[4:], labels[4:], positions=jnp.arange(4, 8))
    for ours, expected in zip(part, whole, strict=True):
        np.testing.assert_allclose(ours, expected[4:], atol=1e-6)
    other = see(key, images[4:], labels[4:])
    assert not np.allclose(other[0], whole[0][4:], atol=0.01)
