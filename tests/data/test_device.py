import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from resnet_jax.config import DataConfig
from resnet_jax.data import augment, normalize

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
    result = jax.jit(partial(normalize, config=DataConfig(channels=channels, mean=mean, std=std)))(images)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_nothing_moves_where_nothing_is_asked():
    images = noise(4, 6, 6, 1)
    config = DataConfig(flip=False, **GREY)
    np.testing.assert_array_equal(augment(jax.random.key(0), images, config), normalize(images, config))


def test_every_other_image_is_mirrored():
    images = noise(1000, 4, 5, 1)
    result = to_bytes(jax.jit(partial(augment, config=DataConfig(**GREY)))(jax.random.key(0), images))
    mirrored = (result == images[:, :, ::-1]).all((1, 2, 3))
    assert (mirrored | (result == images).all((1, 2, 3))).all()
    assert abs(mirrored.mean() - 0.5) < 0.05  # 3 standard deviations


def test_shifts_are_uniform_and_repeat_the_border():
    image = noise(6, 5, 1)
    config = DataConfig(shift_pixels=2, flip=False, **GREY)
    results = to_bytes(jax.jit(partial(augment, config=config))(jax.random.key(0), np.tile(image, (2000, 1, 1, 1))))
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="edge")
    windows = np.array([[padded[y : y + 6, x : x + 5] for x in range(5)] for y in range(5)]).reshape(25, *image.shape)
    matches = (results[:, None] == windows[None]).all((2, 3, 4))
    np.testing.assert_array_equal(matches.sum(1), 1)
    chi_square = ((matches.sum(0) - 80) ** 2 / 80).sum()
    assert chi_square < 51.2, "beyond the 0.1 % quantile for 24 degrees of freedom"


def test_keys_of_either_kind_and_different_keys():
    images, config = noise(8, 6, 6, 3), DataConfig(shift_pixels=1)
    new_style = augment(jax.random.key(1), images, config)
    np.testing.assert_array_equal(new_style, augment(jax.random.PRNGKey(1), images, config))
    assert not np.array_equal(new_style, augment(jax.random.key(2), images, config))


def test_devices_agree_and_do_not_communicate():
    assert jax.device_count() == 8
    mesh = Mesh(np.array(jax.devices()), ("data",))
    images, key = noise(16, 9, 7, 3), jax.random.key(3)
    split = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
    everywhere = jax.device_put(key, NamedSharding(mesh, PartitionSpec()))
    step = jax.jit(partial(augment, config=DataConfig(shift_pixels=2)))
    np.testing.assert_array_equal(step(everywhere, split), step(key, images))
    program = step.lower(everywhere, split).compile().as_text()
    assert "u8[2,9,7,3]" in program, "each device must work on its own two images"
    assert not re.search(r"all-reduce|all-gather|all-to-all|collective|reduce-scatter", program)
