"""Weights that become zero in training, against a plain numpy reference and the published schedule."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import resnet_jax as rn
from resnet_jax import OptimConfig, Prune
from resnet_jax.config import Group, Unfreeze
from resnet_jax.errors import ConfigError
from resnet_jax.run.predict import load_run
from resnet_jax.runtime.mesh import make_mesh, put_batch, split_batch
from resnet_jax.survival.checkpoint import Checkpoints
from resnet_jax.survival.digests import by_name
from resnet_jax.tasks.assemble import assemble
from resnet_jax.tasks.classify.task import classify
from resnet_jax.training.sparse import Ramp, masks_in, ramp_of, sparse

from . import test_devices as devices
from .test_devices import assert_same

pytestmark = pytest.mark.usefixtures("compile_quickly", "short_runs")

HALF = Prune(sparsity=0.9, end_epoch=1, every_steps=1)
SGD = OptimConfig(warmup_epochs=0.0, weight_decay=0.01, nesterov=True, prune=HALF, ema_decay=0.9, ema_every_steps=2)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def test_the_published_schedule():
    """Zhu & Gupta 2017, equation 1, written with the number of choices n and the updates between two of them."""
    first, last, begin, n, step = 0.1, 0.8, 20, 7, 10
    ramp = ramp_of(Prune(sparsity=last, first_sparsity=first, every_steps=step), begin, begin + n * step)
    assert ramp.updates == tuple(begin + i * step for i in range(n + 1))
    expected = [last + (first - last) * (1 - (t - begin) / (n * step)) ** 3 for t in ramp.updates]
    assert ramp.shares == pytest.approx(expected, abs=1e-15)
    assert ramp_of(Prune(sparsity=0.5), 0, 0) == Ramp((1,), (0.5,))
    odd = ramp_of(Prune(sparsity=0.8, every_steps=4), 0, 10)
    assert (odd.updates, odd.shares[-1]) == ((4, 8, 10), 0.8)
    assert ramp_of(Prune(sparsity=0.5, pattern="2:4"), 3, 7).updates == (7,)


def reference(weights, grads, prune, ramp, rate):
    """Plain SGD in numpy with float64, and the choice among `weights` by a full sort."""
    masks = {name: np.ones(weight.shape, bool) for name, weight in weights.items()}
    for t, grad in enumerate(grads, start=1):
        weights = {name: (w - rate * grad[name] * masks[name]) * masks[name] for name, w in weights.items()}
        if t in ramp.updates:
            share = ramp.shares[ramp.updates.index(t)]
            sizes = {name: np.where(masks[name], np.abs(w), -1) for name, w in weights.items()}
            if prune.pattern == "2:4":
                for name, size in sizes.items():
                    for place in np.ndindex(*size.shape[:-2], size.shape[-2] // 4, size.shape[-1]):
                        four = (*place[:-2], slice(4 * place[-2], 4 * place[-2] + 4), place[-1])
                        masks[name][four] = np.argsort(np.argsort(size[four])) >= 2
            elif prune.scope == "global":
                every = np.sort(np.concatenate([size.ravel() for size in sizes.values()]))
                zeros = int(share * every.size + 0.5)
                masks = {name: size > (every[zeros - 1] if zeros else -2) for name, size in sizes.items()}
            else:
                for name, size in sizes.items():
                    zeros = int(share * size.size + 0.5)
                    masks[name] = size > (np.sort(size.ravel())[zeros - 1] if zeros else -2)
            weights = {name: w * masks[name] for name, w in weights.items()}
    return weights


@pytest.mark.parametrize(
    "prune",
    [
        Prune(sparsity=0.9, every_steps=2),
        Prune(sparsity=0.77, first_sparsity=0.3, every_steps=3, scope="global"),
        Prune(sparsity=0.5, pattern="2:4"),
    ],
    ids=lambda prune: f"{prune.pattern} {prune.scope}",
)
def test_against_numpy(prune, float64):
    rng = np.random.default_rng(0)
    shapes = {"layer1_0/conv1/kernel": (3, 3, 8, 5), "layer2_0/conv1/kernel": (1, 1, 12, 7), "fc/kernel": (16, 3)}
    flat = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    grads = [{name: rng.normal(size=shape) for name, shape in shapes.items()} for _ in range(9)]
    ramp = ramp_of(prune, 1, 7)
    tree = lambda named: {name: {"kernel": jnp.asarray(x)} for name, x in named.items()}
    other = {"conv1": {"kernel": jnp.ones((3, 3, 4, 4))}, "bn1": {"scale": jnp.ones(4)}, "frozen": {"kernel": None}}
    rule = sparse(optax.sgd(0.1), prune, ramp)
    params = {**tree({name.removesuffix("/kernel"): x for name, x in flat.items()}), **other}
    state = rule.init(params)
    step = jax.jit(lambda g, s, p: rule.update(g, s, p))
    for grad in grads:
        given = {**tree({name.removesuffix("/kernel"): x for name, x in grad.items()}), **other}
        updates, state = step(given, state, params)
        params = optax.apply_updates(params, updates)
        for name, mask in by_name(state.masks.of).items():
            assert not by_name(params)[name][~mask].any()  # exactly zero after every update
    expected = reference(flat, grads, prune, ramp, 0.1)
    for name, weight in expected.items():
        assert np.allclose(by_name(params)[name], weight, rtol=0, atol=1e-14)
        assert np.array_equal(by_name(params)[name] == 0, weight == 0)
    assert sorted(by_name(state.masks.of)) == sorted(expected)
    assert np.allclose(params["conv1"]["kernel"], 1 - 9 * 0.1 * 1)  # as the rule alone has it


def check_zeros(state, share=0.9):
    """The weights and their averages are zero where the mask says so; as many as asked for."""
    masks, params, averages = by_name(masks_in(state.opt_state)), by_name(state.params), by_name(state.ema["params"])
    assert masks
    for name, mask in masks.items():
        assert np.count_nonzero(~mask) == np.floor(share * mask.size + 0.5)
        assert not params[name][~mask].any()
        assert not averages[name][~mask].any()
        assert averages[name][mask].all()
    return masks, params


def trained(config, count=1, steps=3, state=None):
    model, mesh = devices.tiny_model(config, param_dtype=jnp.float64), make_mesh(jax.devices()[:count])
    training = assemble(config, classify(config, model), mesh, num_images=64)
    like = training.init_state.eval_shape(jax.random.key(0))
    state = devices.first_state(config, model) if state is None else state
    state = jax.device_put(state, jax.tree.map(lambda leaf: leaf.sharding, like))
    for step in range(int(state.step), steps):
        phase = [phase for phase, _ in training.phases if phase.start <= step]
        _, run = training.phases[len(phase) - 1]
        state, metrics = run(state, put_batch(devices.random_batch(step), split_batch(mesh)))
    return state, metrics


def test_a_network_on_any_number_of_devices(float64):
    config = devices.make_config(optim=SGD)
    state, metrics = trained(config)
    masks, params = check_zeros(state)
    assert "conv1/kernel" not in masks
    assert len(masks) == sum(name.endswith("kernel") for name in params) - 1
    assert metrics["sparsity"] == pytest.approx(0.9, abs=2e-3)
    split, _ = trained(replace(config, optim=replace(SGD, shard_state=True)), 4)
    assert_same(jax.device_get((split.params, split.ema)), jax.device_get((state.params, state.ema)))
    assert_same(jax.device_get(masks_in(split.opt_state)), jax.device_get(masks_in(state.opt_state)))


@pytest.mark.slow
def test_a_run_that_is_continued_goes_on_exactly(float64, tmp_path):
    config = devices.make_config(optim=replace(SGD, prune=replace(HALF, end_epoch=2, scope="global")))
    half, _ = trained(config, steps=2)
    with Checkpoints(tmp_path, keep_last=1, keep_best=0) as checkpoints:
        checkpoints.save(2, half, {}, {})
        checkpoints.wait()
        restored = checkpoints.restore_newest(jax.eval_shape(lambda: half))
    again, _ = trained(config, steps=5, state=restored.state)
    straight, _ = trained(config, steps=5)
    assert jax.tree.all(jax.tree.map(np.array_equal, again, straight))


@pytest.mark.slow
def test_frozen_parameters_and_phases(float64):
    """What is frozen loses nothing. At the start of a phase the moments are forgotten, and the masks are not."""
    groups = (Group(pattern="^layer1_0/conv3/", rate=0.0),)
    optim = replace(SGD, groups=groups, level="last_block", unfreeze=(Unfreeze(epoch=1, level="all"),))
    config = devices.make_config(optim=replace(optim, prune=Prune(sparsity=0.75)))
    first, _ = trained(config, steps=1)
    masks = by_name(masks_in(first.opt_state))
    assert "layer1_0/conv3/kernel" not in masks
    zeros = {name: np.count_nonzero(~mask) for name, mask in masks.items()}
    resting = {name for name, count in zeros.items() if not count}
    assert "layer1_0/conv1/kernel" in resting
    assert {"fc/kernel"} <= masks.keys() - resting
    later, _ = trained(config, steps=4)
    after = by_name(masks_in(later.opt_state))
    for name in masks.keys() - resting:
        assert np.array_equal(masks[name], after[name])
        assert not by_name(later.params)[name][~masks[name]].any()


@pytest.mark.slow
def test_a_run_says_how_sparse_it_is(tmp_path, capsys):
    digits = Path(__file__).parents[2] / "configs" / "digits.py"
    words = ["--model.name", "cifar_resnet8", "--batch-size", "128", "--epochs", "0.2", "--log-every-steps", "1"]
    rn.train(rn.load_config(digits, [*words, "--optim.prune.sparsity", "0.5"]), tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())["sparsity"]
    assert result == pytest.approx({**dict.fromkeys(result, 0.5)}, abs=1e-2)
    assert {"all", "layer1_0/conv1", "fc"} <= result.keys()
    assert "conv1" not in result
    assert "50.00% of the weights are zero; result.json has each layer" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["sparsity"] == pytest.approx(0.5, abs=1e-3)
    kernel = np.asarray(load_run(tmp_path).state.params["layer3_0"]["conv2"]["kernel"])
    assert np.mean(kernel == 0) == 0.5


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"sparsity": 1.0}, "Prune.sparsity = 1.0 is out of range; it must be >= 0 and < 1"),
        ({"sparsity": -0.1}, "Prune.sparsity = -0.1 is out of range"),
        ({"begin_epoch": 2, "end_epoch": 1}, "end_epoch = 1 lies before begin_epoch = 2; it must be the same"),
        ({"sparsity": 0.5, "first_sparsity": 0.6}, "first_sparsity = 0.6 is more than sparsity = 0.5, .*set it lower"),
        ({"sparsity": 0.9, "pattern": "2:4"}, "'2:4' makes one weight of two zero, and sparsity = 0.9; set it to 0.5"),
        ({"keep": ("(",)}, "is no regular expression: .*; correct it"),
    ],
)
def test_options_that_do_not_fit(fields, text):
    with pytest.raises(ConfigError, match=text):
        Prune(**fields)


def test_an_end_that_is_never_reached():
    optim = OptimConfig(prune=Prune(sparsity=0.5, end_epoch=20))
    with pytest.raises(ConfigError, match="end_epoch = 20 lies beyond the 10 epochs of the run, .*train longer"):
        devices.make_config(optim=optim)


def test_nothing_to_take_away(float64):
    config = devices.make_config(optim=replace(SGD, prune=Prune(sparsity=0.5, keep=(".",))))
    with pytest.raises(
        ConfigError, match="no kernel loses weights, since all are frozen, named by optim.prune.keep, or"
    ):
        trained(config)
