"""Examples that count unequally, such as images with ignored pixels: one update on any devices, in any parts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.models import create_model, init
from resnet_jax.runtime.mesh import make_mesh, put_batch, split_batch
from resnet_jax.training.losses import cross_entropy, one_hot
from resnet_jax.training.state import make_init_state
from resnet_jax.training.step import Losses, make_train_step

IMAGES, SIDE, CLASSES = 16, 8, 5
# Valid pixels of the images: from none to all, and nearly all of them in the second half of the batch.
VALID = np.array([0, 1, 0, 2, 1, 0, 3, 1, 64, 60, 0, 64, 33, 64, 50, 64])


def batch(valid=VALID):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, (IMAGES, SIDE * SIDE)).astype(np.int32)
    labels[np.arange(SIDE * SIDE)[None] >= valid[:, None]] = -1
    return {"image": rng.normal(size=(IMAGES, SIDE, SIDE, 3)), "label": labels}


def pixel_loss(model, params, batch_stats, batch, key, axis, *, weighted):
    """A class for each pixel: an image's logits, shifted by what the pixel shows."""
    net = model.clone(bn_axis_name=axis) if axis else model
    variables = {"params": params, "batch_stats": batch_stats}
    logits, updates = net.apply(variables, batch["image"], train=True, mutable=["batch_stats"])
    pixels = batch["image"].reshape(len(logits), SIDE * SIDE, 3)
    logits = logits[:, None, :] * (1 + pixels.mean(-1, keepdims=True))
    real = batch["label"] >= 0
    flat = cross_entropy(logits.reshape(-1, CLASSES), one_hot(batch["label"].reshape(-1), CLASSES))
    each = jnp.where(real, flat.reshape(real.shape), 0).sum(1)
    right = jnp.where(real, jnp.argmax(logits, -1) == batch["label"], 0).sum(1)
    count = real.sum(1).astype(each.dtype)
    if weighted:
        return Losses(each, {"right": right}, updates["batch_stats"], count)
    mean = lambda x: jnp.full(x.shape, x.sum() / jnp.maximum(count.sum(), 1))  # of what this part knows of
    return Losses(mean(each), {"right": mean(right)}, updates["batch_stats"])


def several_losses(model, params, batch_stats, batch, key, axis):
    """Of the pixels; of every third image; and one whose counts are all 0, which is divided by 1."""
    pixels = pixel_loss(model, params, batch_stats, batch, key, axis, weighted=True)
    third = (batch["position"] % 3 == 0).astype(pixels.loss.dtype)
    several = {"pixels": (pixels.loss, pixels.weight), "third": (third * pixels.loss**2, 2 * third)}
    several["none"] = (0.01 * pixels.loss, 0 * third)
    return Losses(0.1 * pixels.loss, {"right": pixels.metrics["right"]}, pixels.batch_stats, several=several)


def sum_of_several(model, params, batch_stats, batch, key, axis):
    """The same, for a step that sees the whole batch at once."""
    found = several_losses(model, params, batch_stats, batch, key, axis)
    whole = {name: loss.sum() / jnp.maximum(count.sum(), 1) for name, (loss, count) in found.several.items()}
    each = {name: jnp.full(IMAGES, value) for name, value in whole.items()}
    return Losses(found.loss + sum(whole.values()), {**found.metrics, **each}, found.batch_stats)


def update(devices, accumulate, valid=VALID, *, weighted=True, bn_group_size=4, shard_optimizer=False, loss=None):
    mesh = make_mesh(jax.devices()[:devices])
    model = create_model(
        "cifar_resnet20", num_classes=CLASSES, width=4, stage_sizes=(1,), bn_group_size=bn_group_size,
        param_dtype=jnp.float64,
    )  # fmt: skip
    optimizer = optax.sgd(0.1, momentum=0.9)
    state = make_init_state(partial(init, model), optimizer, mesh, shard_optimizer=shard_optimizer)(jax.random.key(0))
    step = make_train_step(
        partial(loss or partial(pixel_loss, weighted=weighted), model), optimizer, mesh,
        bn_group_size=bn_group_size, accumulate=accumulate, shard_optimizer=shard_optimizer,
    )  # fmt: skip
    for _ in range(2):
        state, metrics = step(state, put_batch(batch(valid), split_batch(mesh)))
    return jax.device_get((state.params, state.batch_stats, state.opt_state, metrics))


def worst_error(ours, expected):
    errors = jax.tree.map(lambda a, b: np.abs(a - b).max() / max(1, np.abs(b).max()), ours, expected)
    return max(jax.tree.leaves(errors))


@pytest.fixture(autouse=True)
def _float64(compile_quickly):
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def alone(compile_quickly):
    with jax.enable_x64(True):
        return update(1, 1)


@pytest.mark.parametrize(
    ("devices", "accumulate"),
    [(1, 2), (4, 1), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in [(2, 1), (2, 2), (4, 2)])],
)
def test_unequal_weights_give_one_update(alone, devices, accumulate):
    if (devices, accumulate) == (4, 2):  # whole groups: 16 images in 8 parts
        alone = update(1, 1, bn_group_size=2)
        assert worst_error(update(4, 2, bn_group_size=2), alone) < 1e-12
    else:
        assert worst_error(update(devices, accumulate), alone) < 1e-12


def test_a_mean_in_each_part_would_not(alone):
    plain = update(1, 1, weighted=False)
    *weighted, metrics = alone
    assert metrics["empty"] == 0
    assert worst_error(plain, (*weighted, {name: metrics[name] for name in plain[-1]})) < 1e-12, (
        "with one part there is no difference"
    )
    assert worst_error(update(1, 2, weighted=False), plain) > 1e-3


@pytest.fixture(scope="module")
def summed(compile_quickly):
    with jax.enable_x64(True):
        return update(1, 1, loss=sum_of_several)


@pytest.mark.parametrize(
    ("devices", "accumulate"),
    [(1, 1), (2, 2), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in [(4, 1), (1, 2), (4, 2)])],
)
def test_several_losses_have_counts_of_their_own(summed, devices, accumulate):
    if (devices, accumulate) == (4, 2):  # whole groups: 16 images in 8 parts
        summed = update(1, 1, bn_group_size=2, loss=sum_of_several)
        assert worst_error(update(4, 2, bn_group_size=2, loss=several_losses), summed) < 1e-12
    else:
        assert worst_error(update(devices, accumulate, loss=several_losses), summed) < 1e-12
    assert {"loss", "pixels", "third", "none"} <= summed[-1].keys()


@pytest.mark.slow
def test_several_losses_and_norms_over_the_whole_batch():
    ours, expected = (
        update(4, 1, bn_group_size=0, loss=several_losses),
        update(1, 1, bn_group_size=0, loss=sum_of_several),
    )
    assert worst_error(ours, expected) < 1e-12


@pytest.mark.slow
def test_a_split_optimizer_divides_too(alone):
    assert worst_error(update(4, 1, shard_optimizer=True), alone) < 1e-12


@pytest.mark.slow
def test_norms_over_the_whole_batch():
    assert worst_error(update(4, 1, bn_group_size=0), update(1, 1, bn_group_size=0)) < 1e-12


def test_a_batch_that_does_not_count_changes_nothing():
    """0, not 0 / 0."""
    params, _, momentum, metrics = update(1, 1, np.zeros(IMAGES, int))
    assert metrics["loss"] == metrics["right"] == metrics["grad_norm"] == 0
    assert metrics["empty"] == 1
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(momentum))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
