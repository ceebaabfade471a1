"""Parameters whose rows are split over the devices: class centres under an exact softmax over all of them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from resnet_jax import OptimConfig
from resnet_jax.errors import ConfigError
from resnet_jax.runtime.mesh import AXIS, make_mesh, put_batch, split_batch
from resnet_jax.survival.checkpoint import Checkpoints
from resnet_jax.training.optim import make_optimizer
from resnet_jax.training.state import make_init_state
from resnet_jax.training.step import Losses, make_train_step

CLASSES, WIDTH, FEATURES, IMAGES, STEPS = 12, 5, 7, 16, 3
SPLIT = ("^centres$",)
OPTIM = OptimConfig(base_lr=16 * 0.3, weight_decay=0.01, clip_norm=1.0)


def init(key):
    a, b = jax.random.split(key)
    params = {
        "centres": jax.random.normal(a, (CLASSES, WIDTH)),
        "body": {"kernel": jax.random.normal(b, (FEATURES, WIDTH))},
    }
    return {"params": params, "batch_stats": {}}


def loss(params, batch_stats, batch, key, axis):
    """Each device has some of the centres and some of the examples; every example meets every centre."""
    mine, rows = batch["x"] @ params["body"]["kernel"], len(params["centres"])
    points, labels = (lax.all_gather(x, AXIS, tiled=True) for x in (mine, batch["label"]))
    logits = points @ params["centres"].T
    top = lax.pmax(lax.stop_gradient(logits.max(axis=1)), AXIS)
    everything = lax.psum(jnp.exp(logits - top[:, None]).sum(axis=1), AXIS)
    place = labels - lax.axis_index(AXIS) * rows
    here = (place >= 0) & (place < rows)
    own = jnp.take_along_axis(logits, jnp.clip(place, 0, rows - 1)[:, None], axis=1)[:, 0]
    target = lax.psum(jnp.where(here, own, 0), AXIS)
    losses = jnp.log(everything) + top - target
    part = lax.dynamic_slice_in_dim(losses, lax.axis_index(AXIS) * len(mine), len(mine))
    weight = batch["weight"]
    return Losses(part * weight, {}, {}, weight)


def plain_step(optimizer, params, opt_state, batch):
    def mean(params):
        logits = batch["x"] @ params["body"]["kernel"] @ params["centres"].T
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return jnp.sum(losses * batch["weight"]) / jnp.sum(batch["weight"])

    updates, opt_state = optimizer.update(jax.grad(mean)(params), opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def batch_of(step):
    rng = np.random.default_rng(step)
    weight = rng.uniform(0, 1, IMAGES) ** 4  # very unequal
    labels = rng.integers(0, CLASSES, IMAGES).astype(np.int32)
    return {"x": rng.normal(size=(IMAGES, FEATURES)), "label": labels, "weight": weight}


def make(devices, optim, **options):
    mesh = make_mesh(jax.devices()[:devices])
    optimizer = make_optimizer(optim, optax.constant_schedule(0.3))
    init_state = make_init_state(init, optimizer, mesh, split=SPLIT, shard_optimizer=options.get("shard", False))
    accumulate = options.get("parts", 1)
    step = make_train_step(
        loss, optimizer, mesh, bn_group_size=1, accumulate=accumulate, split=SPLIT,
        shard_optimizer=options.get("shard", False),
    )  # fmt: skip
    return mesh, optimizer, init_state, step


def train(devices, optim=OPTIM, **options):
    mesh, _, init_state, step = make(devices, optim, **options)
    state = init_state(jax.random.key(0))
    for number in range(STEPS):
        state, _ = step(state, put_batch(batch_of(number), split_batch(mesh)))
    return state


@pytest.fixture(scope="module")
def expected():
    with jax.enable_x64(True):
        optimizer = make_optimizer(OPTIM, optax.constant_schedule(0.3))
        params = init(jax.random.split(jax.random.key(0))[0])["params"]
        opt_state = optimizer.init(params)
        for number in range(STEPS):
            params, opt_state = plain_step(optimizer, params, opt_state, batch_of(number))
        return jax.device_get(params)


@pytest.mark.parametrize(
    ("devices", "options"),
    [(1, {}), (2, {}), (4, {}), (2, {"shard": True}), (2, {"parts": 2})],
    ids=str,
)
def test_the_update_is_that_of_one_device(devices, options, expected):
    with jax.enable_x64(True):
        state = train(devices, **options)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13), state.params, expected)
        kept = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (CLASSES, WIDTH)]
        assert len(kept) == 2  # the centres and their momentum
        assert {shard.data.shape for leaf in kept for shard in leaf.addressable_shards} == {(CLASSES // devices, WIDTH)}


def test_a_checkpoint_goes_to_another_number_of_devices(tmp_path):
    with jax.enable_x64(True):
        state = train(4)
        with Checkpoints(tmp_path / "checkpoints", keep_last=1, keep_best=0) as checkpoints:
            checkpoints.save(STEPS, state, {}, {})
        mesh, _, init_state, step = make(2, OPTIM)
        with Checkpoints(tmp_path / "checkpoints", keep_last=1, keep_best=0) as checkpoints:
            restored = checkpoints.restore_newest(init_state.eval_shape(jax.random.key(0))).state
        jax.tree.map(np.testing.assert_array_equal, restored, state)
        assert restored.params["centres"].addressable_shards[0].data.shape == (CLASSES // 2, WIDTH)
        step(restored, put_batch(batch_of(9), split_batch(mesh)))


def test_a_batch_that_devices_cannot_share_is_refused():
    mesh, optimizer, init_state, _ = make(2, OPTIM)
    step = make_train_step(loss, optimizer, mesh, bn_group_size=1, mix_group_size=0, split=SPLIT)
    with pytest.raises(
        ConfigError, match=r"a batch of 16 examples cannot be shared by 2 device\(s\).*choose a batch_size"
    ):
        step(init_state(jax.random.key(0)), put_batch(batch_of(0), split_batch(mesh)))


def test_what_cannot_be_split_is_refused():
    with pytest.raises(ConfigError, match=r"splits centres \(12, 5\) over the devices, and 8 of them cannot share"):
        make(8, OPTIM)
    mesh = make_mesh(jax.devices()[:2])
    optimizer = make_optimizer(replace(OPTIM, clip_norm=0.0), optax.constant_schedule(0.3))
    with pytest.raises(ConfigError, match=r"splits '\^center' over the devices, and no parameter.*Correct Task.split"):
        make_init_state(init, optimizer, mesh, split=("^center",))
