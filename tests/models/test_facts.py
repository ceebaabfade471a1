"""Sizes and costs of the whole family against torchvision's metadata, timm's modules and the papers' tables."""

from functools import cache

import jax
import jax.numpy as jnp
import pytest

from resnet_jax.cost.count import count_macs, count_parameters
from resnet_jax.cost.facts import stored_facts
from resnet_jax.models import create_model, list_models

from ..depth import deep_is_slow

TORCHVISION = list_models(task="classify")[:10]
STORED = {name: fact.cost for name, fact in stored_facts().items()}


@cache
def traced(name):
    model = create_model(name)
    images = jax.ShapeDtypeStruct((2, 65, 97, 3), jnp.float32)
    init = lambda key, images: model.init_with_output(key, images, train=False)
    logits, variables = jax.eval_shape(init, jax.random.key(0), images)
    return logits, sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize("name", deep_is_slow(list_models(task="classify")))
def test_the_family_traces(name):
    logits, parameters = traced(name)
    assert logits.shape == (2, 10 if name.startswith("cifar") else 1000)
    assert logits.dtype == jnp.float32
    assert parameters == STORED[name].parameters


@pytest.mark.parametrize("name", deep_is_slow(TORCHVISION))
def test_costs_are_torchvisions(name, torchvision):
    meta = torchvision.models.get_model_weights(name).DEFAULT.meta
    model = create_model(name)
    assert count_parameters(model) == meta["num_params"]
    assert count_macs(model) == STORED[name].macs
    assert STORED[name].macs / 1e9 == pytest.approx(meta["_ops"], rel=0.005)


@pytest.mark.parametrize(
    "name",
    [
        *("resnet18d", "resnet50d", "resnet26t", "resnet50c", "resnetblur18", "seresnet18", "seresnet50"),
        *("seresnext26d_32x4d", "seresnext50_32x4d", "resnetv2_50"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("seresnet152d", "seresnext101_64x4d", "resnet200d")),
    ],
)
def test_costs_are_timms(name, oracle):
    """timm's own modules, run without numbers; their convolutions report what they were given."""
    torch, macs = oracle.torch, []
    module = oracle.build(name, device="meta").eval()

    def count(layer, args, out):
        macs.append(out.numel() * layer.weight[0].numel())

    for layer in module.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
            layer.register_forward_hook(count)
    module(torch.empty(1, 3, 224, 224, device="meta"))
    model = create_model(name)
    assert count_parameters(model) == sum(parameter.numel() for parameter in module.parameters())
    assert count_macs(model) == STORED[name].macs == sum(macs)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        # He et al. 2015, Table 6; without parameters in the shortcuts a plain twin has as many
        *((f"cifar_{kind}20", 0.27) for kind in ("resnet", "plain", "resnetv2_")),
        *((f"cifar_{kind}32", 0.46) for kind in ("resnet", "plain", "resnetv2_")),
        *((f"cifar_{kind}44", 0.66) for kind in ("resnet", "plain", "resnetv2_")),
        *((f"cifar_{kind}56", 0.85) for kind in ("resnet", "plain", "resnetv2_")),
        *((f"cifar_{kind}110", 1.7) for kind in ("resnet", "plain", "resnetv2_")),
        *((f"cifar_{kind}1202", 19.4) for kind in ("resnet", "plain", "resnetv2_")),
        # He et al. 2016, Table 4 (as quoted by Zagoruyko & Komodakis 2016, Table 5)
        *((f"cifar_{kind}164", 1.7) for kind in ("resnet", "resnetv2_")),
        *((f"cifar_{kind}1001", 10.2) for kind in ("resnet", "resnetv2_")),
        # Zagoruyko & Komodakis 2016, Tables 4 and 5
        ("cifar_wide_resnet28_10", 36.5),
        ("cifar_wide_resnet16_8", 11.0),
    ],
)
def test_small_nets_have_the_papers_parameters(name, millions):
    """Of the table, which `test_the_family_traces` counts anew."""
    assert STORED[name].parameters / 1e6 == pytest.approx(millions, rel=0.02)


@pytest.mark.parametrize(
    ("name", "gmacs"),
    [
        # He et al. 2015, Table 1, printed to one decimal
        *(("plain18", 1.8), ("plain34", 3.6), ("resnet50_v1", 3.8), ("resnet101_v1", 7.6), ("resnet152_v1", 11.3)),
    ],
)
def test_costs_are_the_papers(name, gmacs):
    assert count_macs(create_model(name)) / 1e9 == pytest.approx(gmacs, rel=0.02)


@pytest.mark.parametrize("depth", [18, 34])
def test_plain_nets_lack_just_the_projections(depth):
    plain, option_a = create_model(f"plain{depth}"), create_model(f"resnet{depth}", shortcut="zero_pad")
    projections = sum(a * b + 2 * b for a, b in [(64, 128), (128, 256), (256, 512)])
    assert count_parameters(plain) == count_parameters(option_a)
    assert count_parameters(plain) == count_parameters(create_model(f"resnet{depth}")) - projections
