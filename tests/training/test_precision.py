"""float16 with its loss scale, bfloat16, and what TF32 is allowed to touch."""

import dataclasses

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import AugmentConfig, Config, DataConfig, ModelConfig, OptimConfig
from resnet_jax.errors import NonFiniteLossError
from resnet_jax.logs.run_log import RunLog
from resnet_jax.models import create_model
from resnet_jax.runtime.mesh import make_mesh, put_batch, split_batch
from resnet_jax.tasks.assemble import assemble, build_model
from resnet_jax.tasks.classify.task import classify
from resnet_jax.training.loss_scale import GROWTH_INTERVAL, LossScale, next_loss_scale

pytestmark = pytest.mark.usefixtures("compile_quickly")


def make_config(dtype, on_non_finite="stop"):
    return Config(
        model=ModelConfig(name="cifar_resnet20", num_classes=10, bn_group_size=8, dtype=dtype),
        data=DataConfig(image_size=8, eval_resize=8, augment=AugmentConfig(random_resized_crop=False)),
        optim=OptimConfig(base_lr=0.4, warmup_epochs=0.0),
        batch_size=32,
        on_non_finite=on_non_finite,
    )


def random_batch(size=32):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (size, 8, 8, 3), np.uint8)
    return {"image": images, "label": (images[:, 0, 0, 0] // 26).astype(np.int32)}


@pytest.fixture(scope="module")
def half(compile_quickly):
    """The step in float16, and its first state."""
    config, mesh = make_config("float16"), make_mesh(jax.devices()[:2])
    model = create_model("cifar_resnet20", num_classes=10, stage_sizes=(1,), bn_group_size=8, dtype=jnp.float16)
    training = assemble(config, classify(config, model), mesh, num_images=320)
    state = jax.device_get(training.init_state(jax.random.key(0)))
    layout = jax.tree.map(lambda leaf: leaf.sharding, training.init_state.eval_shape(jax.random.key(0)))
    step = lambda state: training.train_step(
        jax.device_put(state, layout), put_batch(random_batch(), split_batch(mesh))
    )
    return step, state


def with_scale(state, scale):
    return state.replace(loss_scale=LossScale(scale=np.float32(scale), good_steps=np.int32(5)))


def test_an_overflow_is_skipped_and_halves_the_scale_and_training_recovers(half):
    step, state = half
    start, skipped = jax.tree.map(np.copy, state.params), []
    state = with_scale(state, 2.0**30)  # far beyond what float16 can hold
    for number in range(1, 25):
        state, metrics = step(state)
        state, metrics = jax.device_get((state, metrics))
        skipped.append(float(metrics["skipped"]))
        assert int(state.step) == number
        assert np.isfinite(metrics["loss"])
        if skipped[-1]:
            assert float(state.loss_scale.scale) == metrics["loss_scale"] / 2
            jax.tree.map(np.testing.assert_array_equal, state.params, start)
    overflows = int(sum(skipped))
    assert 0 < overflows < 20
    assert skipped == [1.0] * overflows + [0.0] * (24 - overflows)
    assert float(state.loss_scale.scale) == 2.0**30 / 2**overflows
    assert int(state.loss_scale.good_steps) == 24 - overflows
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state.params, state.batch_stats, state.opt_state)))
    assert not np.array_equal(state.params["fc"]["kernel"], start["fc"]["kernel"])


def test_what_no_scale_can_help_is_no_overflow(half):
    """At a scale of 1 a gradient that is not finite is divergence: not reported as skipped, so that the log raises."""
    step, state = half
    broken = state.replace(params=jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), state.params))
    _, metrics = step(with_scale(broken, 1.0))
    assert not np.isfinite(metrics["loss"])
    assert metrics["skipped"] == 0
    assert metrics["loss_scale"] == 1


def test_the_scale_grows_after_many_good_steps_and_never_falls_below_one():
    scale = LossScale(scale=jnp.float32(4), good_steps=jnp.int32(GROWTH_INTERVAL - 2))
    scales = []
    for good in (True, True, True, False, False, False, False):
        scale = next_loss_scale(scale, jnp.array(good))
        scales.append((float(scale.scale), int(scale.good_steps)))
    assert scales == [(4, GROWTH_INTERVAL - 1), (8, 0), (8, 1), (4, 0), (2, 0), (1, 0), (1, 0)]


def test_the_log_counts_skipped_steps_and_shows_the_scale(tmp_path, caplog):
    options = {"total_steps": 9, "start_step": 0, "images_per_step": 1, "steps_per_epoch": 3.0}
    step = lambda loss, skipped: {"loss": loss, "grad_norm": loss, "skipped": skipped, "loss_scale": 8.0}
    with RunLog(tmp_path, learning_rate=lambda step: 0.1, **options) as log:
        for number, (loss, skipped) in enumerate([(1.0, 0.0), (np.inf, 1.0), (3.0, 0.0)], 1):
            log.collect(number, step(loss, skipped))
        log.write_train(3)
        line = (tmp_path / "metrics.jsonl").read_text()
        assert '"skipped": 1' in line
        assert '"loss_scale": 8.0' in line
        assert '"loss": 2.0' in line
        assert not caplog.records
        for number, (loss, skipped) in enumerate([(np.inf, 1.0), (np.nan, 0.0)], 4):
            log.collect(number, step(loss, skipped))
        with pytest.raises(NonFiniteLossError, match="the loss is nan .* at step 5 .* the first of 2 "):
            log.write_train(5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_only_activations_are_narrow(dtype):
    config = make_config(dtype)
    model = build_model(config)
    training = assemble(config, classify(config, model), make_mesh(jax.devices()[:1]), num_images=320)
    state = training.init_state.eval_shape(jax.random.key(0))
    floats = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert {leaf.dtype for leaf in floats} == {jnp.dtype("float32")}
    images = jnp.zeros((8, 8, 8, 3))
    stages = jax.eval_shape(lambda v: model.apply(v, images, train=False, features=True), state.variables)
    assert stages["stage1"].dtype == stages["stage3"].dtype == jnp.dtype(dtype)
    assert stages["logits"].dtype == stages["pooled"].dtype == jnp.float32
    assert (state.loss_scale is not None) == (dtype == "float16")
    _, metrics = jax.eval_shape(training.train_step, state, training.batch)
    assert {metric.dtype for metric in metrics.values()} == {jnp.dtype("float32")}


def products(dtype):
    """The precision of every convolution and matrix product of a forward and backward pass, with its operands' type."""
    config = make_config(dtype)
    model = dataclasses.replace(build_model(config), stage_sizes=(1,))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False))
    loss = lambda v: jnp.sum(model.apply(v, jnp.zeros((8, 8, 8, 3)), train=True, mutable=["batch_stats"])[0])
    jaxpr = jax.make_jaxpr(jax.grad(loss))(variables)
    found = set()

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name in ("dot_general", "conv_general_dilated"):
                precision = equation.params["precision"]
                found.add((str(equation.invars[0].aval.dtype), str(precision[0]) if precision else None))
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                walk(inner)

    walk(jaxpr.jaxpr)
    return found


def test_tf32_is_used_only_where_it_is_asked_for():
    assert products("float32") == {("float32", "HIGHEST")}
    assert products("tf32") == {("float32", None)}
    assert products("bfloat16") == {("bfloat16", None), ("float32", "HIGHEST")}  # the last layer is float32
