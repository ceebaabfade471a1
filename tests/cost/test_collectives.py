"""What the devices exchange in the compiled step of a network, read off its optimised program."""

from functools import partial

import jax
import pytest

from resnet_jax import AugmentConfig, Config, DataConfig, ModelConfig, OptimConfig
from resnet_jax.cost.collectives import count_collectives, read_collectives
from resnet_jax.cost.count import count_parameters
from resnet_jax.cost.forecast import forecast
from resnet_jax.models import create_model

PARAMETERS = {"cifar_resnet8": 139_640, "resnet50": 25_557_032}
STATISTICS, BATCH_NORMS = {"cifar_resnet8": 2 * 240, "resnet50": 2 * 26_560}, 53
IMAGES = jax.ShapeDtypeStruct((1, 32, 32, 3), float)
MIXED = AugmentConfig(mixup_alpha=0.2, cutmix_alpha=1.0, mix_group_size=2)


def collectives(bn_group_size=2, accumulate=1, name="cifar_resnet8", **optim):
    """Of a small batch of small images: neither changes what is exchanged."""
    config = Config(
        model=ModelConfig(name=name, bn_group_size=bn_group_size),
        data=DataConfig(image_size=32, eval_resize=32, augment=MIXED),
        optim=OptimConfig(**optim),
        batch_size=16 * accumulate,
        accumulate=accumulate,
    )
    return forecast(config, jax.devices()).collectives


pytestmark = pytest.mark.usefixtures("short_runs", "compile_quickly")
both = pytest.mark.parametrize("name", ["cifar_resnet8", pytest.param("resnet50", marks=pytest.mark.slow)])


@both
def test_groups_and_mixing_need_no_communication_of_their_own(name):
    """All that eight devices exchange is one all-reduce of gradients, statistics and metrics."""
    found = collectives(name=name)
    assert count_collectives(found) == {"all-reduce": 1}
    assert found[0].bytes == 4 * (PARAMETERS[name] + STATISTICS[name] + 2)  # with loss and accuracy
    assert found[0].devices == 8
    assert found[0].wire_bytes == 2 * 7 / 8 * found[0].bytes


@both
def test_parts_add_nothing(name):
    found = collectives(accumulate=2, name=name)
    assert count_collectives(found) == {"all-reduce": 1}
    assert not found[0].repeated


@pytest.mark.slow
@both
def test_a_split_optimizer_scatters_and_gathers(name):
    """What is still reduced are statistics, metrics and the norms of the gradients."""
    found = collectives(shard_state=True, name=name)
    counts = count_collectives(found)
    assert counts.pop("all-reduce") <= 2
    assert counts == {"reduce-scatter": 1, "all-gather": 1}
    sizes = {collective.kind: collective.bytes for collective in found}
    assert sizes["reduce-scatter"] == sizes["all-gather"] == 4 * count_parameters(create_model(name, num_classes=1000))
    assert sum(x.bytes for x in found if x.kind == "all-reduce") < 4 * (STATISTICS["resnet50"] + 2 + 162)


def test_muon_with_a_split_state_gathers_the_kernels_once_more():
    """Its products need whole kernels. What each device then computes alone is not split again."""
    found = collectives(shard_state=True, optimizer="muon")
    gathers = sorted(collective.bytes for collective in found if collective.kind == "all-gather")
    init = partial(create_model("cifar_resnet8", num_classes=1000).init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), IMAGES)
    kernels = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim > 2)
    assert gathers == [4 * kernels, 4 * PARAMETERS["cifar_resnet8"]]
    assert count_collectives(found)["reduce-scatter"] == 1


@pytest.mark.slow
def test_global_batch_norm_exchanges_once_per_norm_and_direction():
    """Forward the statistics, backward their cotangents; two norms side by side may share one exchange."""
    found = collectives(bn_group_size=0, name="resnet50")
    assert count_collectives(found).keys() == {"all-reduce"}
    assert len(found) <= 2 * BATCH_NORMS + 1
    assert (
        sum(collective.bytes for collective in found)
        < 4 * (PARAMETERS["resnet50"] + STATISTICS["resnet50"] + 2 + 2 * 3 * 26_560) + 1
    )


PROGRAM = """
%body (p: f32[4]) -> f32[4] {
  %looped = f32[4]{0} all-reduce(%p), channel_id=9, replica_groups={{0,1},{2,3}}, to_apply=%add
}
ENTRY %main (a: f32[8]) -> f32[8] {
  %sum = (f32[8]{0}, bf16[3,2]{1,0}) all-reduce(%a, %b), replica_groups=[1,4]<=[4], to_apply=%add
  %part = f64[2]{0} reduce-scatter(%c), replica_groups={{0,1,2,3}}, dimensions={0}, to_apply=%add
  %whole = (f32[2]{0}, f32[8]{0}) all-gather-start(%d), replica_groups=[1,4]<=[4], dimensions={0}
  %done = f32[8]{0} all-gather-done(%whole)
  %moved = f8e4m3fn[16]{0} collective-permute(%e), source_target_pairs={{0,1},{1,2}}
  %same = f32[8]{0} add(%all-reduce.1, %f)
}
"""


def test_reading_a_program():
    found = read_collectives(PROGRAM, 4)
    assert [(x.kind, x.arrays, x.bytes, x.devices, x.repeated) for x in found] == [
        ("all-reduce", 1, 16, 2, True),
        ("all-reduce", 2, 32 + 12, 4, False),
        ("reduce-scatter", 1, 64, 4, False),
        ("all-gather", 1, 32, 4, False),
        ("collective-permute", 1, 16, 4, False),
    ]
    assert [x.wire_bytes for x in found] == [16, 66, 48, 24, 16]
    assert count_collectives(found) == {"all-reduce": 2, "reduce-scatter": 1, "all-gather": 1, "collective-permute": 1}
