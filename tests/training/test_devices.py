"""The same training on any number of devices and in any number of parts, in float64."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from resnet_jax import AugmentConfig, Config, DataConfig, ModelConfig, OptimConfig
from resnet_jax.errors import ConfigError
from resnet_jax.models import create_model
from resnet_jax.runtime.mesh import make_mesh, put_batch, split_batch
from resnet_jax.tasks.assemble import assemble, init_state_of
from resnet_jax.tasks.classify.task import classify
from resnet_jax.training.zero import mean_over_devices

MIXED = AugmentConfig(random_resized_crop=False, shift_pixels=1, mixup_alpha=0.5, cutmix_alpha=1.0, mix_group_size=4)
PLAIN = AugmentConfig(random_resized_crop=False, shift_pixels=1)
SGD = OptimConfig(warmup_epochs=0.0)
SPLIT = replace(SGD, shard_state=True, ema_decay=0.9, ema_every_steps=2)
LARGE_BATCH = OptimConfig(
    optimizer="lamb", base_lr=0.1, clip_norm=0.5, no_decay=("bn",), ema_decay=0.9, ema_every_steps=2, warmup_epochs=0.0
)


def make_config(bn_group_size=4, accumulate=1, augment=PLAIN, optim=SGD):
    return Config(
        model=ModelConfig(num_classes=10, bn_group_size=bn_group_size),
        data=DataConfig(image_size=8, channels=1, mean=(0.3,), std=(0.4,), augment=augment),
        optim=optim,
        batch_size=32,
        accumulate=accumulate,
        epochs=10,
    )


def tiny_model(config, **options):
    options = {
        "num_classes": 10,
        "width": 8,
        "stage_sizes": (2,),
        "bn_group_size": config.model.bn_group_size,
    } | options
    return create_model("cifar_resnet29", **options)


def random_batch(step):
    rng = np.random.default_rng(step)
    return {
        "image": rng.integers(0, 256, (32, 8, 8, 1), np.uint8),
        "label": rng.integers(0, 10, 32).astype(np.int32),
    }


@cache
def first_state(config, model):
    """Compiled once for all meshes."""
    config = replace(config, accumulate=1, optim=replace(config.optim, shard_state=False))
    return jax.device_get(
        init_state_of(config, classify(config, model), make_mesh(jax.local_devices()[:1]))(jax.random.key(0))
    )


def train(config, devices, *, steps=5, **options):
    """Parameters, statistics, averages and the metrics of the last step, after some updates."""
    mesh = make_mesh(jax.devices()[:devices])
    model = tiny_model(config, **options)
    training = assemble(config, classify(config, model), mesh, num_images=64)
    like = training.init_state.eval_shape(jax.random.key(0))
    state = jax.device_put(first_state(config, model), jax.tree.map(lambda leaf: leaf.sharding, like))
    for step in range(steps):
        batch = {
            name: np.split(rows, jax.process_count())[jax.process_index()] for name, rows in random_batch(step).items()
        }
        state, metrics = training.train_step(state, put_batch(batch, split_batch(mesh)))
    del metrics["worst_layer"]  # an index; the norm next to it says as much
    return jax.device_get((state.params, state.batch_stats, state.ema, metrics))


def assert_same(ours, expected, tolerance=1e-12):
    def compare(path, a, b):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1, np.abs(b).max()), err_msg=str(path))

    jax.tree_util.tree_map_with_path(compare, ours, expected)


pytestmark = pytest.mark.usefixtures("compile_quickly")


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield partial(train, param_dtype=jnp.float64, stochastic_depth=0.5)


def test_groups_on_any_number_of_devices_in_any_number_of_parts(float64):
    """With random draws for images, and dropped branches."""
    expected = float64(make_config(), 1)
    assert expected[0]["fc"]["kernel"].dtype == np.float64
    for devices, accumulate in [(8, 1), (2, 4)]:
        assert_same(float64(make_config(accumulate=accumulate), devices), expected)


@pytest.mark.slow
def test_global_batch_norm_on_any_number_of_devices(float64):
    expected = float64(make_config(bn_group_size=0), 1)
    assert_same(float64(make_config(bn_group_size=0), 8), expected)


@pytest.mark.slow
def test_mixing_on_each_device(float64):
    """Images are mixed in float32, whose rounding differs."""
    expected = float64(make_config(augment=MIXED), 1)
    assert_same(float64(make_config(augment=MIXED, accumulate=2), 4), expected, 1e-8)


@pytest.mark.slow
def test_mixing_across_devices(float64):
    """What no device can do alone is left to the partitioner."""
    across = AugmentConfig(random_resized_crop=False, mixup_alpha=0.5)
    assert_same(float64(make_config(augment=across), 8), float64(make_config(augment=across), 1), 1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("optim", [LARGE_BATCH, replace(LARGE_BATCH, optimizer="muon")], ids=["lamb", "muon"])
def test_a_split_optimizer_with_all_that_goes_with_large_batches(float64, optim):
    expected = float64(make_config(optim=optim), 1)
    split = replace(optim, shard_state=True)
    assert_same(float64(make_config(optim=split, accumulate=2), 4), expected)


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "accumulate"), [(1, 2), (1, 4), (2, 1), (2, 2), (4, 1), (4, 2)])
def test_the_other_numbers_of_devices_and_parts(float64, devices, accumulate):
    assert_same(float64(make_config(accumulate=accumulate), devices), float64(make_config(), 1))
    if accumulate == 1:
        expected = float64(make_config(bn_group_size=0), 1)
        assert_same(float64(make_config(bn_group_size=0), devices), expected)


@pytest.mark.slow
def test_float32_differs_by_rounding_alone():
    expected = train(make_config(), 1)
    assert_same(train(make_config(accumulate=2), 4), expected, tolerance=1e-5)


def test_parts_that_do_not_hold_whole_groups():
    with pytest.raises(
        ConfigError, match=r"= 32 is not divisible by 64 = 4 device\(s\) x 4 parts \(accumulate\) x 4 im"
    ):
        train(make_config(accumulate=4), 4)
    config = make_config(bn_group_size=4, augment=AugmentConfig(mixup_alpha=0.5, mix_group_size=8))
    with pytest.raises(ConfigError, match="4 parts of whole groups of 8 images that depend on one another"):
        train(replace(config, accumulate=4), 2)


def test_one_device_packs_nothing():
    """Each piece of a packed array would be a kernel of its own, which takes time to compile."""
    tree = {"scale": jnp.ones(3), "kernel": jnp.ones((2, 2))}
    layout = jax.tree.map(lambda _: PartitionSpec(), tree)
    for devices, packed in ((1, False), (2, True)):
        exchange = jax.shard_map(
            lambda tree: mean_over_devices(tree, layout),
            mesh=make_mesh(jax.devices()[:devices]),
            in_specs=PartitionSpec(),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
        text = str(jax.make_jaxpr(exchange)(tree))
        assert ("concatenate" in text) == packed
        assert ("psum" in text) == packed
        jax.tree.map(np.testing.assert_array_equal, exchange(tree), tree)
