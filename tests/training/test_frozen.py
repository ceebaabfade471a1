"""Groups of parameters: frozen ones do not change by a bit and cost nothing, others have their own rate and decay."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import resnet_jax as rn
from resnet_jax import OptimConfig
from resnet_jax.config.groups import Group
from resnet_jax.cost.count import count_macs, count_macs_of
from resnet_jax.errors import ConfigError
from resnet_jax.models import create_model
from resnet_jax.runtime.mesh import make_mesh, put_batch, split_batch
from resnet_jax.survival.checkpoint import Checkpoints
from resnet_jax.survival.digests import by_name
from resnet_jax.survival.non_finite import layer_names
from resnet_jax.tasks.assemble import assemble
from resnet_jax.tasks.classify.task import classify
from resnet_jax.training.frozen import belonging_to, check_groups, fixed_modules, trained_of
from resnet_jax.training.losses import cross_entropy, one_hot
from resnet_jax.training.optim import make_optimizer

from . import test_devices as devices

BACKBONE = Group(pattern=r"^(?!fc/)", rate=0.0)
PROBE = OptimConfig(warmup_epochs=0.0, groups=(BACKBONE,), ema_decay=0.9, ema_every_steps=2)
BATCH = 24


def make_config(optim=PROBE, **changes):
    return replace(devices.make_config(optim=optim), batch_size=BATCH, **changes)


def first_state(training):
    """With statistics that a network has after training: at 0 and 1 nothing would be seen of them."""
    state = training.init_state(jax.random.key(0))
    rng = np.random.default_rng(1)
    moved = jax.tree.map(lambda x: jnp.asarray(rng.uniform(0.5, 2, x.shape), x.dtype), state.batch_stats)
    return state.replace(batch_stats=jax.device_put(moved, jax.tree.map(lambda x: x.sharding, state.batch_stats)))


def make(config, count=1, **options):
    model, mesh = devices.tiny_model(config, **options), make_mesh(jax.devices()[:count])
    return model, assemble(config, classify(config, model), mesh, num_images=64), split_batch(mesh)


def batch_of(step):
    return {name: rows[:BATCH] for name, rows in devices.random_batch(step).items()}


def train(training, sharding, state, steps):
    for step in range(steps):
        state, metrics = training.train_step(state, put_batch(batch_of(step), sharding))
    return jax.device_get(state), metrics


pytestmark = pytest.mark.usefixtures("compile_quickly")


@pytest.mark.parametrize(("count", "changes"), [(3, {}), (2, {"accumulate": 3})])
def test_a_frozen_backbone_does_not_change_by_a_bit(count, changes, tmp_path):
    """Also where means over three devices or parts would round."""
    _, training, sharding = make(make_config(**changes), count)
    state = first_state(training)
    before = jax.device_get(state)
    after, metrics = train(training, sharding, state, 20)
    old, new = by_name(before.variables), by_name(after.variables)
    changed = {name for name in old if not np.array_equal(old[name], new[name])}
    assert changed == {"params/fc/kernel", "params/fc/bias"}

    assert {name.partition("fc/")[1:] for name in by_name(after.opt_state) if "count" not in name} == {
        ("fc/", "kernel"),
        ("fc/", "bias"),
    }
    assert by_name(after.ema).keys() == changed
    assert jax.tree.structure(after.eval_variables) == jax.tree.structure(after.variables)
    assert layer_names(after.ema["params"])[int(metrics["worst_layer"])] in ("fc/bias", "fc/kernel")

    with Checkpoints(tmp_path, keep_last=1, keep_best=0) as checkpoints:
        checkpoints.save(20, jax.tree.map(jnp.asarray, after), {}, {})
        restored = checkpoints.restore_newest(jax.eval_shape(lambda: after)).state
    jax.tree.map(np.testing.assert_array_equal, restored, after)


def test_the_arithmetic_is_a_forward_pass_and_the_heads_gradient():
    model, training, _ = make(make_config(OptimConfig(warmup_epochs=0.0, groups=(BACKBONE,))))
    state = training.init_state.eval_shape(jax.random.key(0))
    head = BATCH * 10 * state.params["fc"]["kernel"].shape[0]
    forward = BATCH * count_macs(model, image_size=8, channels=1)
    assert count_macs_of(training.train_step, state, training.batch) == forward + head
    _, everything, _ = make(make_config(OptimConfig(warmup_epochs=0.0)))
    whole = count_macs_of(everything.train_step, everything.init_state.eval_shape(jax.random.key(0)), training.batch)
    assert whole > 2.5 * forward

    flops = [x.lower_step().compile().cost_analysis()["flops"] for x in (training, everything)]
    assert 2 * forward < flops[0] < 0.6 * flops[1], "the compiler sees as much"


def test_frozen_norms_use_their_running_statistics():
    """The loss is that of the network in evaluation; those of other layers still use the batch's."""
    config = make_config()
    model, training, sharding = make(config)
    state = first_state(training)
    variables = jax.device_get(state.variables)
    task, batch = classify(config, model), batch_of(0) | {"position": np.arange(BATCH)}
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), 0)
    _, metrics = train(training, sharding, state, 1)
    logits = jax.jit(lambda: model.apply(variables, task.prepare(key, batch)["image"], train=False))()
    expected = jnp.mean(cross_entropy(logits, one_hot(batch["label"], 10)))
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)

    part = replace(PROBE, groups=(Group(pattern="^(conv1|bn1)/", rate=0.0),))
    _, training, sharding = make(make_config(part))
    state = first_state(training)
    before = jax.device_get(state.batch_stats)
    after, other = train(training, sharding, state, 1)
    assert abs(other["loss"] - expected) > 1e-3
    moved = {name for name, x in by_name(after.batch_stats).items() if not np.array_equal(x, by_name(before)[name])}
    assert moved == {name for name in by_name(before) if not name.startswith("bn1/")}


@pytest.mark.slow
def test_a_split_optimizer_over_frozen_layers():
    groups = (Group(pattern="layer1_0", rate=0.0), Group(pattern="fc", rate=0.5))
    with jax.enable_x64(True):
        results = []
        for count, shard in [(1, False), (2, True)]:
            optim = replace(devices.LARGE_BATCH, groups=groups, shard_state=shard)
            _, training, sharding = make(make_config(optim), count, param_dtype=jnp.float64)
            results.append(train(training, sharding, first_state(training), 3)[0])
    devices.assert_same(results[1].eval_variables, results[0].eval_variables)


def test_rates_and_decays_are_those_of_torchs_parameter_groups():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    params = {"a": {"kernel": rng.normal(size=(3, 2)), "bias": rng.normal(size=2)}, "b": {"kernel": rng.normal(size=4)}}
    groups = (Group(pattern="a/kernel", rate=0.25, decay=0.3), Group(pattern="b/", rate=3.0))
    config = OptimConfig(nesterov=True, weight_decay=0.1, no_decay=("bias",), groups=groups)
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, params)
        optimizer = make_optimizer(config, lambda step: 0.2)
        state = optimizer.init(params)
        theirs = {name: torch.tensor(np.array(leaf), requires_grad=True) for name, leaf in by_name(params).items()}
        rates = {"a/kernel": (0.25, 0.3), "a/bias": (1.0, 0.0), "b/kernel": (3.0, 0.1)}
        sgd = torch.optim.SGD(
            [{"params": [theirs[n]], "lr": 0.2 * rate, "weight_decay": decay} for n, (rate, decay) in rates.items()],
            momentum=0.9, nesterov=True,
        )  # fmt: skip
        for _ in range(5):
            grads = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), params)
            updates, state = optimizer.update(grads, state, params)
            params = jax.tree.map(jnp.add, params, updates)
            for name, grad in by_name(grads).items():
                theirs[name].grad = torch.tensor(np.array(grad))
            sgd.step()
        for name, leaf in by_name(params).items():
            np.testing.assert_allclose(leaf, theirs[name].detach().numpy(), rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("optimizer", ["lars", "lamb", "muon"])
def test_a_group_of_the_same_decay_and_rate_changes_nothing(optimizer):
    plain = OptimConfig(optimizer=optimizer, weight_decay=0.1, no_decay=("bias",))
    grouped = replace(plain, groups=(Group(pattern="kernel", decay=0.1), Group(pattern="bias", rate=0.5)))
    params = {"a": {"kernel": jnp.ones((3, 2)), "bias": jnp.arange(2.0)}}
    results = []
    for config in (plain, grouped):
        rule = make_optimizer(config, lambda step: 0.2)
        results.append(rule.update(jax.tree.map(jnp.cos, params), rule.init(params), params)[0]["a"])
    np.testing.assert_allclose(results[1]["kernel"], results[0]["kernel"], rtol=1e-6)
    np.testing.assert_allclose(results[1]["bias"], results[0]["bias"] / 2, rtol=1e-6)


PARAMS = {"conv1": {"kernel": jnp.ones(3)}, "bn1": {"scale": jnp.ones(2), "bias": jnp.ones(2)}, "fc": {"kernel": 1.0}}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            [Group(pattern="cnv1/kernel")],
            "'cnv1/kernel' is found in none of the 4 .* nearest are conv1/kernel, ",
        ),
        (
            [Group(pattern="kernel"), Group(pattern="^fc")],
            r"the parameter fc/kernel belongs to two groups, 'kernel' and '\^fc'; make the patterns exclude each other",
        ),
        ([Group(pattern=".", rate=0.0)], "all parameters are frozen .* nothing to train; leave some of them out"),
    ],
)
def test_groups_that_cannot_be_meant(groups, message):
    with pytest.raises(ConfigError, match=message):
        check_groups(PARAMS, groups)


def test_a_run_is_refused_before_work_begins(tmp_path):
    config = devices.make_config(optim=replace(PROBE, groups=(Group(pattern="head"),)))
    model = create_model("cifar_resnet20", num_classes=10, stage_sizes=(1,))
    with pytest.raises(ConfigError, match="the pattern 'head' is found in none"):
        rn.train(config, tmp_path / "run", task=classify(config, model))
    assert not (tmp_path / "run").exists()


def test_a_module_is_frozen_where_all_of_its_own_parameters_are():
    groups = [Group(pattern="conv1|scale", rate=0.0), Group(pattern="fc", rate=0.1)]
    trained = trained_of(PARAMS, groups)
    assert fixed_modules(PARAMS, groups) == {"conv1"}
    assert not fixed_modules(PARAMS, [replace(groups[0], statistics="moving")])
    flat, _ = ravel_pytree(jax.tree.map(jnp.float32, trained))
    assert flat.sum() == 2


def test_patterns_that_are_none():
    with pytest.raises(ConfigError, match=r"Group.pattern = '\(' is no regular expression: missing \)"):
        Group(pattern="(")
    with pytest.raises(ConfigError, match=r"OptimConfig.no_decay\[0\] = '\*' is no regular expression"):
        OptimConfig(no_decay=("*",))
    with pytest.raises(ConfigError, match="Group.decay = -1 is out of range; it must be >= 0"):
        Group(pattern="a", decay=-1)


def test_an_array_of_a_block_is_not_that_of_the_stem():
    """Before, a phase that froze the stem's `bn1` took the moments of `layer1_0/bn1` away from the optimizer."""
    arrays = {"bn1": {"scale": np.ones(2)}, "layer1_0": {"bn1": {"scale": np.ones(2)}}}
    found = belonging_to({"trace": arrays, "count": np.ones(())}, frozenset({"bn1/scale"}), frozenset(by_name(arrays)))
    expected = {"bn1": {"scale": True}, "layer1_0": {"bn1": {"scale": False}}}
    assert found == {"trace": expected, "count": False}
