"""The train step of every config, and what it refuses."""

import dataclasses
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from resnet_jax import ModelConfig, load_config
from resnet_jax.errors import ConfigError
from resnet_jax.models import create_model
from resnet_jax.runtime.mesh import check_batch_size, put_batch, split_batch
from resnet_jax.tasks.assemble import build_model
from resnet_jax.tasks.classify.task import classify
from resnet_jax.training.optim import make_optimizer, plan_steps
from resnet_jax.training.state import make_init_state
from resnet_jax.training.step import make_train_step

pytestmark = pytest.mark.usefixtures("compile_quickly")

CONFIGS = Path(__file__).parent.parent.parent / "configs"
DIGITS = load_config(CONFIGS / "digits.py")


def mesh_of(devices):
    return Mesh(np.array(jax.devices()[:devices]), ("data",), axis_types=(AxisType.Auto,))


def digits_step(devices, bn_group_size, options=DIGITS.data.augment):
    mesh = mesh_of(devices)
    model = create_model("cifar_resnet29", num_classes=10, bn_group_size=bn_group_size, stage_sizes=(1, 1))
    config = dataclasses.replace(DIGITS, data=dataclasses.replace(DIGITS.data, augment=options))
    return *step_and_state(config, model, mesh), split_batch(mesh)


def step_and_state(config, model, mesh):
    task = classify(config, model)
    optimizer = make_optimizer(config.optim, plan_steps(config, 1437).schedule)
    step = make_train_step(task.loss, optimizer, mesh, bn_group_size=model.bn_group_size)
    return step, make_init_state(task.init, optimizer, mesh)(jax.random.key(0))


def random_batch(size=32):
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (size, 8, 8, 1), np.uint8),
        "label": rng.integers(0, 10, size).astype(np.int32),
    }


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(path.stem, marks=pytest.mark.slow if "152" in path.stem else ())
        for path in sorted(CONFIGS.glob("*.py"))
    ],
)
def test_every_config_traces_a_step_at_full_size(name):
    config = load_config(CONFIGS / f"{name}.py")
    if config.model.num_classes is None:  # from a folder that is not here
        config = replace(config, model=replace(config.model, num_classes=2))
    mesh = mesh_of(8)
    check_batch_size(config.batch_size, config.model.bn_group_size, mesh.size)
    task, plan = classify(config, build_model(config)), plan_steps(config, 1_281_167)
    optimizer = make_optimizer(config.optim, plan.schedule)
    step = make_train_step(task.loss, optimizer, mesh, bn_group_size=config.model.bn_group_size)
    state = make_init_state(task.init, optimizer, mesh).eval_shape(jax.random.key(0))
    side = config.data.train_size
    batch = {
        "image": jax.ShapeDtypeStruct((config.batch_size, side, side, config.data.channels), jnp.uint8),
        "label": jax.ShapeDtypeStruct((config.batch_size,), jnp.int32),
    }
    new_state, metrics = jax.eval_shape(step, state, batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new_state) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert metrics["loss"].dtype == jnp.float32


def test_imagenet_configs_are_the_papers_recipe():
    for name in ("imagenet_resnet50", "imagenet_resnet152"):
        config = load_config(CONFIGS / f"{name}.py")
        plan = plan_steps(config, 1_281_167)
        epoch = lambda number: int(number * plan.steps_per_epoch) + 1
        peak = 0.1 * config.batch_size / 256
        rates = [plan.lr(epoch(number)) / peak for number in (5.1, 29.9, 30.1, 59.9, 60.1, 79.9, 80.1, 89.9)]
        np.testing.assert_allclose(rates, [1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-4)
        assert plan.total == round(90 * 1_281_167 / config.batch_size)


def test_batches_that_devices_or_groups_do_not_divide():
    check_batch_size(64, 0, 8)
    with pytest.raises(ConfigError, match=r"batch_size = 100 is not divisible by 8 = 8 device\(s\); .* 96 or 104"):
        check_batch_size(100, 0, 8)
    with pytest.raises(ConfigError, match=r"not divisible by 256 = 8 device\(s\) x 32 images .* are: 256"):
        check_batch_size(64, 32, 8)


def test_model_options_reach_the_network():
    options = ModelConfig(name="resnet18", num_classes=7, bn_group_size=4, dtype="bfloat16", zero_init_residual=False)
    model = build_model(load_config(CONFIGS / "digits.py").__class__(model=options, batch_size=8))
    assert (model.num_classes, model.bn_group_size, model.zero_init_residual) == (7, 4, False)
    assert model.dtype == jnp.bfloat16


@pytest.mark.parametrize("options", [{"norm": "group"}, {"stochastic_depth": 0.5}])
def test_networks_without_statistics_and_with_dropped_branches_train(options):
    mesh = mesh_of(1)
    model = create_model("cifar_resnet29", num_classes=10, width=32, stage_sizes=(1,), **options)
    step, state = step_and_state(DIGITS, model, mesh)
    for _ in range(2):
        state, metrics = step(state, put_batch(random_batch(), split_batch(mesh)))
    assert int(state.step) == 2
    assert np.isfinite(metrics["loss"])
