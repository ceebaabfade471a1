"""A checkpoint goes on, on another number of devices, to where the run without interruption arrives."""

from dataclasses import replace
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import pytest

from resnet_jax.runtime.mesh import make_mesh, put_batch, split_batch
from resnet_jax.survival.checkpoint import Checkpoints
from resnet_jax.tasks.assemble import assemble
from resnet_jax.tasks.classify.task import classify

from . import test_devices as devices

CONFIG = devices.make_config(optim=devices.SPLIT)


@pytest.fixture(autouse=True)
def _float64(compile_quickly):
    with jax.enable_x64(True):
        yield


def steps(config, number, first, last, restore_from=None, save_to=None):
    mesh = make_mesh(jax.devices()[:number])
    model = devices.tiny_model(config, param_dtype=jnp.float64)
    training = assemble(config, classify(config, model), mesh, num_images=64)
    key = jax.random.key(0)
    if restore_from:
        with Checkpoints(restore_from, keep_last=1, keep_best=0) as checkpoints:
            state = checkpoints.restore_newest(training.init_state.eval_shape(key)).state
    else:
        state = training.init_state(key)
    for step in range(first, last):
        state, _ = training.train_step(state, put_batch(devices.random_batch(step), split_batch(mesh)))
    if save_to:
        with Checkpoints(save_to, keep_last=1, keep_best=0) as checkpoints:
            checkpoints.save(last, state, {}, {})
    return state


@pytest.fixture(scope="module")
def saved(compile_quickly, tmp_path_factory):
    """After three steps on eight devices, with the optimizer's state split over them; and after five."""
    with jax.enable_x64(True):
        folder = tmp_path_factory.mktemp("eight") / "checkpoints"
        steps(CONFIG, 8, 0, 3, save_to=folder)
        expected = jax.device_get(steps(CONFIG, 8, 0, 5))
    return folder, expected


@pytest.mark.parametrize(
    "number", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)]
)
def test_from_eight_devices(saved, number):
    """Also with the optimizer whole on each device, and in more parts: they may change where a run goes on."""
    folder, expected = saved
    whole = replace(CONFIG, accumulate=8 // number, optim=replace(CONFIG.optim, shard_state=False))
    state = steps(whole, number, 3, 5, restore_from=folder)
    devices.assert_same(jax.device_get(state), expected)


class OlderState(flax.struct.PyTreeNode):
    """`TrainState` before it could hold moving averages and a loss scale."""

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any
    key: Any


def test_checkpoints_from_before_averages_and_loss_scales(tmp_path):
    config = devices.make_config()
    training = assemble(
        config, classify(config, devices.tiny_model(config)), make_mesh(jax.devices()[:1]), num_images=64
    )
    state = training.init_state(jax.random.key(0))
    older = OlderState(state.step, state.params, state.batch_stats, state.opt_state, state.key)
    with Checkpoints(tmp_path, keep_last=1, keep_best=0) as checkpoints:
        checkpoints.save(1, older, {}, {})
        restored = checkpoints.restore_newest(training.init_state.eval_shape(jax.random.key(0)))
    devices.assert_same(restored.state, jax.device_get(state), 0)
