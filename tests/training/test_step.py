"""The compiled step: the same on any number of devices, its collectives, evaluation by masking."""

import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from resnet_jax import ModelConfig, load_config
from resnet_jax.data import augment
from resnet_jax.errors import ConfigError
from resnet_jax.models import create_model
from resnet_jax.run import build_model
from resnet_jax.training.evaluate import make_evaluate
from resnet_jax.training.mesh import check_batch_size, make_mesh, put_batch, replicated, split_batch
from resnet_jax.training.optim import make_optimizer, plan_steps
from resnet_jax.training.state import make_init_state
from resnet_jax.training.step import make_train_step

CONFIGS = Path(__file__).parent.parent.parent / "configs"
DIGITS = load_config(CONFIGS / "digits.py")


def mesh_of(devices):
    return Mesh(np.array(jax.devices()[:devices]), ("data",), axis_types=(AxisType.Auto,))


def digits_step(devices, bn_group_size):
    mesh = mesh_of(devices)
    model = create_model("cifar_resnet29", num_classes=10, bn_group_size=bn_group_size, stage_sizes=(1, 1))
    optimizer = make_optimizer(DIGITS.optim, plan_steps(DIGITS, 1437).schedule)
    init_state = make_init_state(model, optimizer, channels=1, sharding=replicated(mesh))
    step = make_train_step(model, optimizer, partial(augment, config=DIGITS.data), mesh, label_smoothing=0.1)
    return step, init_state(jax.random.key(0)), split_batch(mesh)


def random_batch(size=32):
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (size, 8, 8, 1), np.uint8),
        "label": rng.integers(0, 10, size).astype(np.int32),
    }


def compiled(devices, bn_group_size):
    step, state, sharding = digits_step(devices, bn_group_size)
    return step.lower(state, put_batch(random_batch(), sharding)).compile().as_text()


@pytest.mark.parametrize("bn_group_size", [0, 4])
def test_one_and_eight_devices_train_alike(bn_group_size):
    results = []
    for devices in (1, 8):
        step, state, sharding = digits_step(devices, bn_group_size)
        for _ in range(3):
            state, metrics = step(state, put_batch(random_batch(), sharding))
        results.append(jax.device_get((state.params, state.batch_stats, metrics)))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-3, atol=2e-5), *results)


def test_grouped_batch_norm_needs_no_communication_of_its_own():
    """All that the devices exchange is one all-reduce of gradients, statistics and metrics; SyncBN needs many."""
    grouped, whole = (re.findall(r" (all-\w+|collective-permute|reduce-scatter)\(", compiled(8, g)) for g in (4, 0))
    assert grouped == ["all-reduce"]
    assert len(whole) > 10


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_every_config_traces_a_step_at_full_size(path):
    config = load_config(path)
    mesh = mesh_of(8)
    check_batch_size(config.batch_size, config.model.bn_group_size, mesh.size)
    model, plan = build_model(config), plan_steps(config, 1_281_167)
    optimizer = make_optimizer(config.optim, plan.schedule)
    init_state = make_init_state(model, optimizer, channels=config.data.channels, sharding=replicated(mesh))
    step = make_train_step(model, optimizer, partial(augment, config=config.data), mesh)
    state = init_state.eval_shape(jax.random.key(0))
    side = config.data.image_size
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


class Constant:
    """A stand-in for a network, whose logits are its images' first pixels."""

    def apply(self, variables, images, *, train):
        return images[:, 0, :, 0] * variables["scale"]


def test_evaluation_counts_every_image_once():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (21, 1, 10, 1), np.uint8), rng.integers(0, 10, 21).astype(np.int32)

    def batches(size=8):
        for start in range(0, 21, size):
            real = len(labels[start : start + size])
            pad = lambda x: np.concatenate(
                [x[start : start + size], np.full((size - real, *x.shape[1:]), 255, x.dtype)]
            )
            yield {
                "image": pad(images),
                "label": np.minimum(pad(labels), 9),
                "weight": (np.arange(size) < real).astype(np.float32),
            }

    normalize = lambda x: jnp.where(x == 255, jnp.nan, x.astype(jnp.float32) / 255)  # what pads may be anything
    images[images == 255] = 254
    evaluate = make_evaluate(Constant(), normalize, make_mesh(), batches, count=21)
    report = evaluate({"scale": jnp.ones(())})
    expected = np.argmax(images[:, 0, :, 0], axis=-1) == labels
    assert report["count"] == 21
    assert report["top1"] == pytest.approx(expected.mean(), abs=1e-6)
    wrong = make_evaluate(Constant(), normalize, make_mesh(), batches, count=24)
    with pytest.raises(RuntimeError, match="evaluation saw 21 images of 24"):
        wrong({"scale": jnp.ones(())})


def test_model_options_reach_the_network():
    options = ModelConfig(name="resnet18", num_classes=7, bn_group_size=4, dtype="bfloat16", zero_init_residual=False)
    model = build_model(load_config(CONFIGS / "digits.py").__class__(model=options, batch_size=8))
    assert (model.num_classes, model.bn_group_size, model.zero_init_residual) == (7, 4, False)
    assert model.dtype == jnp.bfloat16
