"""Counts against torchvision, against the compiler and against arithmetic by hand."""

import jax
import jax.numpy as jnp
import pytest

from resnet_jax import Config, ModelConfig
from resnet_jax.commands.models import models
from resnet_jax.cost.count import count_macs, count_macs_of, measure, summary
from resnet_jax.errors import ModelError
from resnet_jax.models import ResNet, create_model
from resnet_jax.tasks.assemble import build_model
from resnet_jax.tasks.classify.task import classify

TINY = ResNet(block="basic", stage_sizes=(1,), stem="cifar", width=4, num_classes=3)


def test_by_hand():
    """One 3x3 stem and two 3x3 convolutions of 4 channels on 8 x 8 pixels, and `fc`."""
    cost = measure(TINY, image_size=8, channels=2)
    assert cost.parameters == 9 * 2 * 4 + 2 * 9 * 4 * 4 + 3 * 2 * 4 + 4 * 3 + 3
    assert cost.macs == 64 * (9 * 2 * 4 + 2 * 9 * 4 * 4) + 4 * 3
    assert cost.activations == 3 * 64 * 4 + 3
    # Variables, and at the second convolution: the block's input, its own input and its output.
    assert cost.peak_bytes == 4 * (cost.parameters + 3 * 2 * 4 + 3 * 64 * 4)


def test_activations_of_resnet50_are_as_published():
    """Radosavovic et al. 2020 (arXiv:2003.13678), Table 2: 4.1 B flops, 25.6 M parameters, 11.1 M activations."""
    cost = measure(create_model("resnet50"))
    assert (round(cost.macs / 1e9, 1), round(cost.parameters / 1e6, 1), round(cost.activations / 1e6, 1)) == (
        4.1,
        25.6,
        11.1,
    )


@pytest.mark.parametrize("name", ["cifar_resnet20", "cifar_resnetv2_20"])
def test_peak_memory_is_a_bound_that_the_compiler_comes_near_to(name):
    model = create_model(name)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(lambda key, x: model.init(key, x, train=False), jax.random.key(0), image)
    forward = jax.jit(lambda variables, x: model.apply(variables, x, train=False))
    memory = forward.lower(variables, image).compile().memory_analysis()
    weights = sum(leaf.size * 4 for leaf in jax.tree.leaves(variables))
    activations = measure(model, image_size=64).peak_bytes - weights
    assert 0.4 < activations / memory.temp_size_in_bytes <= 1.01


def test_calls_and_shared_functions_are_counted_each_time():
    """`remat` and `jit` wrap operations in calls, and equal calls share one trace."""
    model = create_model("resnet34", num_classes=0)
    assert count_macs(model.clone(remat=(1, 2, 3, 4)), image_size=64) == count_macs(model, image_size=64)
    assert measure(model.clone(act=jax.jit(jax.nn.relu)), image_size=64) == measure(model, image_size=64)


def test_a_tasks_prediction_costs_what_its_network_costs():
    """Which is what the log's `mfu` is computed from."""
    config = Config(model=ModelConfig(name="resnet18", num_classes=7))
    model = build_model(config)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False))
    image = {"image": jax.ShapeDtypeStruct((1, 96, 96, 3), jnp.uint8)}
    assert count_macs_of(classify(config, model).predict, variables, image) == count_macs(model, image_size=96)


def test_the_summary_adds_up():
    model = create_model("seresnet18")
    cost = measure(model, image_size=65)
    for depth in (None, 1):
        lines = summary(model, image_size=65, depth=depth).splitlines()
        rows = [line.split() for line in lines[2:-2]]
        assert sum(int(row[-1].replace(",", "")) for row in rows) == cost.macs
        assert sum(int(row[-2].replace(",", "")) for row in rows) == cost.parameters
        assert lines[-1].split() == ["total", f"{cost.parameters:,}", f"{cost.macs:,}"]


def test_the_summary_reads_like_table_1():
    """He et al. 2015, Table 1: output sizes 112, 56, 28, 14, 7, and the blocks of the 50-layer network."""
    rows = [line.split() for line in summary(create_model("resnet50"), depth=1).splitlines()[2:-2]]
    sides = {row[0].split("_")[0]: int(row[1]) for row in rows[:-1]}
    assert sides == {"conv1": 112, "bn1": 112, "layer1": 56, "layer2": 28, "layer3": 14, "layer4": 7}
    blocks = [row[0].split("_")[0] for row in rows]
    assert [blocks.count(f"layer{i}") for i in (1, 2, 3, 4)] == [3, 4, 6, 3]
    assert rows[-1][:2] == ["fc", "1000"]


def test_the_command_prints_a_line_per_network(capsys):
    models("resnet*18*", layers=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "pixels", "parameters", "GMACs", "activations", "peak"]
    assert lines[1].split() == ["resnet18", "224", "11,689,512", "1.8141", "2.48", "M", "55", "MB"]
    assert any(line.startswith("layer4_1/conv2") and line.endswith("115,605,504") for line in lines)
    models("cifar_resnet20")
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["cifar_resnet20", "32", "269,722"]


def test_the_command_refuses():
    with pytest.raises(ModelError, match="no model matches 'vgg"):
        models("vgg*")
    with pytest.raises(ModelError, match="16x16 pixels are smaller than the network's stride of 32"):
        models("resnet18", image_size=16)
