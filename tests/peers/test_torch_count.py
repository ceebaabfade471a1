"""Costs of torch networks against the tables that torchvision and timm publish, and against this package's counter."""

import math

import pytest

from resnet_jax.cost.facts import stored_facts
from resnet_jax.peers.names import find
from resnet_jax.peers.torch_count import count, trace

# One of each family, and sets whose images or heads differ.
QUICK = {
    *("alexnet:IMAGENET1K_V1", "convnext_tiny:IMAGENET1K_V1", "densenet121:IMAGENET1K_V1"),
    *("efficientnet_b0:IMAGENET1K_V1", "efficientnet_b1:IMAGENET1K_V2", "googlenet:IMAGENET1K_V1"),
    *("inception_v3:IMAGENET1K_V1", "maxvit_t:IMAGENET1K_V1", "mnasnet0_5:IMAGENET1K_V1"),
    *("mobilenet_v3_small:IMAGENET1K_V1", "regnet_y_400mf:IMAGENET1K_V2", "resnet50:IMAGENET1K_V2"),
    *("shufflenet_v2_x0_5:IMAGENET1K_V1", "squeezenet1_1:IMAGENET1K_V1", "swin_t:IMAGENET1K_V1"),
    *("swin_v2_t:IMAGENET1K_V1", "vgg19:IMAGENET1K_V1", "vit_b_16:IMAGENET1K_V1", "vit_b_16:IMAGENET1K_SWAG_E2E_V1"),
}


def check_set(torchvision, word):
    name, _, weights = word.partition(":")
    ((network,), _) = find([f"torchvision:{word}"])
    meta = torchvision.models.get_model_weights(name)[weights].meta
    cost = count(network.build_torch, network.image_size)
    assert (cost.parameters, round(cost.macs / 1e9, 3)) == (meta["num_params"], meta["_ops"]), word


def words_of(torchvision):
    models = torchvision.models
    return [
        f"{name}:{one.name}" for name in models.list_models(module=models) for one in models.get_model_weights(name)
    ]


def test_costs_are_torchvisions(torchvision):
    """`num_params` exactly, and `_ops` to the three digits of its metadata."""
    assert {*words_of(torchvision)} >= QUICK
    for word in sorted(QUICK):
        check_set(torchvision, word)


@pytest.mark.slow
def test_costs_of_all_sets_are_torchvisions(torchvision):
    words = words_of(torchvision)
    assert len(words) >= 115
    for word in words:
        check_set(torchvision, word)


# timm's results/benchmark-infer-amp-nchw-pt240-cu124-rtx4090.csv: pixels, millions of parameters, GMACs, activations
# in millions. Its GMACs are those of fvcore, which counts norms and pools too.
TIMM = {
    "resnet50.a1_in1k": (224, 25.56, 4.11, 11.11),
    "resnetv2_50.a1h_in1k": (224, 25.55, 4.11, 11.11),
    "seresnet50.ra2_in1k": (224, 28.09, 4.11, 11.13),
    "resnet50_gn.a1h_in1k": (224, 25.56, 4.14, 11.11),
    "convnext_tiny.fb_in1k": (224, 28.59, 4.47, 13.44),
    "vit_base_patch16_224.augreg_in1k": (224, 86.57, 17.58, 23.9),
    "swin_tiny_patch4_window7_224.ms_in1k": (224, 28.29, 4.51, 17.06),
    "efficientnet_b0.ra_in1k": (224, 5.29, 0.4, 6.75),
    "mixer_b16_224.goog_in21k_ft_in1k": (224, 59.88, 12.62, 14.53),
    "repvgg_b0.rvgg_in1k": (224, 15.82, 3.41, 6.15),
    "dm_nfnet_f0.dm_in1k": (192, 71.49, 7.21, 10.16),
}


def of_norms_and_pools(calls):
    """What fvcore counts for them: operations for each number that goes in, with a scale and a shift."""
    total = 0
    for call in calls:
        numbers = math.prod(call.arguments[0].shape) if call.arguments and hasattr(call.arguments[0], "shape") else 0
        if "batch_norm" in call.operation:
            affine, training = call.arguments[1] is not None, call.arguments[5] is True
            total += numbers * ((5 if affine else 4) if training else (2 if affine else 1))
        elif call.operation in ("native_layer_norm", "native_group_norm"):
            total += 5 * numbers
        elif "adaptive_avg_pool" in call.operation:
            total += numbers
    return total


@pytest.mark.parametrize("name", TIMM)
def test_costs_are_timms(torchvision, name):
    pytest.importorskip("timm")
    ((network,), _) = find([f"timm:{name}"])
    size, parameters, gmacs, activations = TIMM[name]
    assert network.image_size == size
    cost = count(network.build_torch, size)
    assert (round(cost.parameters / 1e6, 2), round(cost.activations / 1e6, 2)) == (parameters, activations)
    _, calls = trace(network.build_torch, size)
    assert round((cost.macs + of_norms_and_pools(calls)) / 1e9, 2) == gmacs


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d", "seresnet18", "resnet26t"])
def test_both_counters_agree(torchvision, name):
    ((ours,), _) = find([name])
    cost, fact = count(ours.build_torch, ours.image_size), stored_facts()[name].cost
    assert (cost.parameters, cost.macs, cost.activations) == (fact.parameters, fact.macs, fact.activations)


def test_attention_is_counted_by_hand(torchvision):
    """Also where torch has one operation for all of it, and leaves no product to see."""
    import torch

    class Attends(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, images):
            tokens = images.flatten(1)[:, :40].reshape(1, 5, 8)
            return self.attention(tokens, tokens, tokens, need_weights=False)[0]

    cost = count(Attends, 8)
    projections, products = 5 * 8 * 24 + 5 * 8 * 8, 2 * (2 * 5 * 5 * 4)
    assert cost.macs == projections + products
    assert torch.backends.mha.get_fastpath_enabled()
