"""Named levels of what is trained, rates that fall from the head to the stem, and gradual unfreezing."""

import re
from dataclasses import replace
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax import Group, OptimConfig, Unfreeze
from resnet_jax.errors import ConfigError
from resnet_jax.models import create_model, variable_shapes
from resnet_jax.runtime.mesh import put_batch
from resnet_jax.survival.digests import by_name
from resnet_jax.tasks.classify.task import classify
from resnet_jax.training.frozen import fixed_modules, group_of, trained_of
from resnet_jax.training.levels import resolve

from . import test_devices as devices
from .test_frozen import batch_of, first_state, make, make_config

HEAD = ("fc",)
QUICK = OptimConfig(warmup_epochs=0.0)


@pytest.fixture(autouse=True)
def _compile_quickly():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def params_of(name, **options):
    return variable_shapes(create_model(name, num_classes=10, **options))["params"]


def trained_names(optim, params, phase=0):
    groups, phases = resolve(optim, params, HEAD)
    trained = trained_of(params, (*phases[phase].resting, *groups))
    return {name for name, is_trained in by_name(trained).items() if is_trained}


@pytest.mark.parametrize("name", ["resnet50", "resnetv2_50"])
def test_levels_are_what_they_are_called(name):
    params = params_of(name)
    names = set(by_name(params))
    last_norm = {n for n in names if n.startswith("norm/")}
    assert bool(last_norm) == (name == "resnetv2_50")
    starting = lambda *starts: {n for n in names if n.startswith(starts)} | last_norm
    level = lambda level: trained_names(replace(QUICK, level=level), params)
    assert level("all") == names
    assert level("head") == {"fc/kernel", "fc/bias"}
    assert level("last_block") == starting("fc/", "layer4_2/") != level("last_stage")
    assert level("last_stage") == starting("fc/", "layer4_")
    assert level("^(layer2|fc/)") == {n for n in names if n.startswith(("layer2", "fc/"))}
    assert resolve(QUICK, params, HEAD)[0] == (), "without a level nothing is changed"


def test_blocks_are_counted_and_not_sorted_as_text():
    """The eleventh block is `layer1_10`, which a dictionary sorts before `layer1_2`."""
    params = params_of("cifar_resnet20", stage_sizes=(12,))
    assert {n.partition("/")[0] for n in trained_names(replace(QUICK, level="last_block"), params)} == {
        "layer1_11",
        "fc",
    }


@pytest.mark.parametrize("name", ["resnet18", "resnetv2_50"])
def test_layer_decay_is_timms(name, torchvision):
    timm = pytest.importorskip("timm")
    from timm.optim import param_groups_layer_decay

    theirs = timm.create_model(name, num_classes=10)
    names = {id(p): n for n, p in theirs.named_parameters()}
    expected = {}
    for group in param_groups_layer_decay(theirs, layer_decay=0.7):
        for p in group["params"]:
            expected[where(names[id(p)])] = group["lr_scale"]
    groups, _ = resolve(replace(QUICK, layer_decay=0.7), params_of(name), HEAD)
    ours = {}
    for path, i in by_name(group_of(params_of(name), groups)).items():
        ours.setdefault(where(path.replace("/", ".")), set()).add(groups[i].rate if i >= 0 else 1.0)
    assert all(len(rates) == 1 for rates in ours.values())
    assert {at: pytest.approx(rates.pop()) for at, rates in ours.items()} == expected


def where(name):
    """The place of a parameter of ours or of timm's, in words of both."""
    if found := re.match(r"layer(\d)[._](\d+)\.|stages\.(\d)\.blocks\.(\d+)\.", name):
        stage, block, stage_from_0, block_of_v2 = found.groups()
        return (int(stage), int(block)) if stage else (int(stage_from_0) + 1, int(block_of_v2))
    first = name.partition(".")[0]
    return {"fc": "head", "head": "head", "norm": "norm"}.get(first, "stem")


def test_layer_decay_multiplies_the_rates_of_groups_and_keeps_decays():
    params = params_of("resnet18")
    own = (Group(pattern="fc", rate=10.0), Group(pattern=r"layer4_1/bn", decay=0.0))
    groups, _ = resolve(replace(QUICK, level="last_stage", layer_decay=0.5, groups=own), params, HEAD)
    found = {name: groups[i] if i >= 0 else None for name, i in by_name(group_of(params, groups)).items()}
    assert found["fc/kernel"].rate == 10
    assert (found["layer4_1/conv1/kernel"].rate, found["layer4_1/conv1/kernel"].decay) == (0.5, None)
    assert (found["layer4_1/bn2/scale"].rate, found["layer4_1/bn2/scale"].decay) == (0.5, 0.0)
    assert found["layer4_0/conv1/kernel"].rate == 0.25
    assert found["layer3_1/conv1/kernel"].rate == 0


def test_statistics_of_frozen_parts_are_fixed_or_move():
    config = make_config(optim=replace(QUICK, level="head"))
    changed = {}
    for statistics in ("fixed", "moving"):
        asked = replace(config, optim=replace(config.optim, frozen_statistics=statistics))
        _, training, sharding = make(asked)
        state = first_state(training)
        before = by_name(jax.device_get(state.variables))
        state, _ = training.train_step(state, put_batch(batch_of(0), sharding))
        after = by_name(jax.device_get(state.variables))
        changed[statistics] = {name for name in before if not np.array_equal(before[name], after[name])}
        assert {n.rpartition("fc/")[1:] for n in by_name(state.opt_state) if "count" not in n} == {
            ("fc/", "kernel"),
            ("fc/", "bias"),
        }
    head = {"params/fc/kernel", "params/fc/bias"}
    assert changed["fixed"] == head
    assert changed["moving"] == head | {name for name in before if name.startswith("batch_stats/")}


GRADUAL = replace(
    QUICK,
    level="head",
    unfreeze=(Unfreeze(epoch=1.0, level="last_block"), Unfreeze(epoch=2.0, level="last_stage")),
    ema_decay=0.9,
)


def test_phases_begin_at_their_epochs():
    params = params_of("resnet18")
    groups, phases = resolve(GRADUAL, params, HEAD, Fraction(5, 2))
    assert [(phase.start, phase.level) for phase in phases] == [(0, "head"), (2, "last_block"), (5, "last_stage")]
    assert {n.partition("/")[0] for n in trained_names(GRADUAL, params, 1)} == {"layer4_1", "fc"}
    never = {name for name, is_trained in by_name(trained_of(params, groups)).items() if not is_trained}
    assert never == {name for name in by_name(params) if not name.startswith(("layer4", "fc"))}
    assert "layer4_0/bn1" in fixed_modules(params, (*phases[1].resting, *groups))


@pytest.mark.parametrize(
    ("devices_", "changes"),
    [
        (3, {"optimizer": "adamw", "shard_state": True, "unfreeze": GRADUAL.unfreeze[:1]}),
        pytest.param(3, {"optimizer": "adamw", "shard_state": True}, marks=pytest.mark.slow),
        pytest.param(1, {}, marks=pytest.mark.slow),
        pytest.param(1, {"optimizer": "lamb"}, marks=pytest.mark.slow),
    ],
)
def test_a_gradual_run_is_its_phases_one_after_the_other(devices_, changes):
    """Each phase is a run of that level alone that starts with the weights of the phase before, its schedule going on.

    Then rates, averages and decays are those of the whole run, and moments begin at 0.
    """
    optim = replace(GRADUAL, schedule="constant", ema_decay=0.0, weight_decay=0.01, **changes)
    config = make_config(optim=optim)
    with jax.enable_x64(True):
        _, training, sharding = make(config, devices_, param_dtype=jnp.float64)
        state = first_state(training)
        expected = jax.device_get(state.variables)
        starts = [phase.start for phase, _ in training.phases]
        assert starts == [0, 3, 5][: len(starts)]  # 64 images, 24 in a step
        for step in range(8):
            train_step = next(step_of for phase, step_of in reversed(training.phases) if phase.start <= step)
            state, _ = train_step(state, put_batch(batch_of(step), sharding))

        for (phase, _), end in zip(training.phases, [*starts[1:], 8], strict=True):
            level, steps = phase.level, range(phase.start, end)
            alone = replace(optim, level=level, unfreeze=(), shard_state=False)
            _, training, sharding = make(replace(config, optim=alone), param_dtype=jnp.float64)
            one = first_state(training)
            places = jax.tree.map(lambda x: x.sharding, one)
            one = jax.device_put(one.replace(step=jnp.int32(steps.start), **expected), places)
            for step in steps:
                one, _ = training.train_step(one, put_batch(batch_of(step), sharding))
            expected = jax.device_get(one.variables)
        devices.assert_same(jax.device_get(state.variables), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"level": "last_blok"},
            r"optim.level = 'last_blok' is no level \(head, last_block, last_stage, all\), and as a regular expression "
            r"it is found in none of the 62 parameters; the nearest are last_block, .*. Correct it",
        ),
        ({"level": "("}, r"optim.level = '\(' is no level .* no regular expression \(missing \).*; correct it"),
        ({"groups": (Group(pattern="fc", rate=0.0),), "level": "head"}, "all parameters are frozen"),
    ],
)
def test_levels_that_a_network_does_not_have(changes, message):
    with pytest.raises(ConfigError, match=message):
        resolve(replace(QUICK, **changes), params_of("resnet18"), HEAD)


def test_a_network_without_blocks_or_head():
    params = {"encoder": {"kernel": jnp.ones(2)}, "out": {"kernel": jnp.ones(2)}}
    with pytest.raises(ConfigError, match="'last_block': the network has no blocks .* the first are encoder/kernel"):
        resolve(replace(QUICK, level="last_block"), params, ("out",))
    with pytest.raises(
        ConfigError, match="'head': the network has no head, .* last parameters are encoder/kernel, out"
    ):
        resolve(replace(QUICK, level="head"), params, ())
    groups, _ = resolve(replace(QUICK, level="head"), params, ("out",))
    assert trained_of(params, groups) == {"encoder": {"kernel": False}, "out": {"kernel": True}}


def test_phases_that_cannot_be_meant():
    phase = lambda epoch: Unfreeze(epoch=epoch, level="all")
    with pytest.raises(ConfigError, match="the phases begin at the epochs 3, 2; each must begin after the one before"):
        OptimConfig(unfreeze=(phase(3.0), phase(2.0)))
    with pytest.raises(ConfigError, match="a phase begins at epoch 5, and the run ends at epoch 5; train longer"):
        rn.Config(epochs=5, optim=OptimConfig(unfreeze=(phase(5.0),)))


def test_a_run_with_a_wrong_level_is_refused_before_work_begins(tmp_path):
    config = devices.make_config(optim=replace(QUICK, level="layer9"))
    model = create_model("cifar_resnet20", num_classes=10, stage_sizes=(1,))
    with pytest.raises(ConfigError, match="optim.level = 'layer9'"):
        rn.train(config, tmp_path / "run", task=classify(config, model))
    assert not (tmp_path / "run").exists()
