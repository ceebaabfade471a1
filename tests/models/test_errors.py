"""What cannot be built is refused on construction, with the rule and the remedy."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from resnet_jax.errors import ModelError
from resnet_jax.models import Block, Conv, ResNet, create_model


class ProjectsOnly(Block):
    shortcuts = ("projection", "projection_always")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet51", {}, r"unknown model 'resnet51'. Did you mean 'resnet\d"),
        ("resnet50", {"num_clases": 3}, "unknown option of resnet50 'num_clases'. Did you mean 'num_classes'"),
        ("resnet50", {"stem": "imagnet"}, "unknown stem 'imagnet'. Did you mean 'imagenet'"),
        ("resnet50", {"block": "botleneck"}, "unknown block 'botleneck'. Did you mean 'bottleneck'"),
        ("resnet50", {"shortcut": "A"}, "unknown shortcut 'A'. Known: .*zero_pad"),
        ("resnet50", {"norm": "layer"}, "unknown norm 'layer'. Known: batch, frozen, frozen_eps0, group"),
        ("resnet50", {"weight_init": "glorot"}, "unknown weight_init 'glorot'. Known: he, he_fan_in, lecun"),
        (
            "resnet50",
            {"weight_init": "xavier", "stem": "space_to_depth"},
            "weight_init = 'xavier' does not reach the stem 'space_to_depth'.*choose stem='imagenet'",
        ),
        ("resnet50", {"act": "rellu"}, "unknown act 'rellu'. Did you mean 'relu'"),
        ("resnet50", {"pool": "mean"}, "unknown pool 'mean'. Known: avg"),
        ("resnet50", {"num_classes": -1}, "num_classes = -1 must be at least 0"),
        ("resnet50", {"width": 0}, "width = 0 must be at least 1"),
        ("resnet50", {"se_ratio": -1}, "se_ratio = -1 must be at least 0"),
        ("resnet50", {"stage_sizes": ()}, r"stage_sizes = \(\) must name at least one stage"),
        ("resnet50", {"stage_sizes": (3, 0)}, r"stage_sizes = \(3, 0\) must name .* at least one block"),
        ("resnet50", {"output_stride": 4}, "output_stride = 4 must be 8, 16 or 32.*stem and its pool alone make 4"),
        ("resnet50", {"stochastic_depth": 1.0}, r"stochastic_depth = 1.0 .* must be in \[0, 1\)"),
        ("resnet50", {"width_multiplier": 0.001}, "width_multiplier = 0.001 leaves no channel .* at least 0.015625"),
        ("resnet50", {"remat": (5,)}, r"remat = \(5,\) names stage 5; the stages are 1 to 4"),
        (
            "resnet18",
            {"groups": 32, "base_width": 4},
            "groups = 32 and base_width = 4 .* BasicBlock is none.*bottleneck",
        ),
        (
            "resnext50_32x4d",
            {"width": 8},
            "base_width = 4 of 64 channels is less than one for each of 32 groups.* >= 8",
        ),
        ("seresnet18", {"width": 8}, "se_ratio = 16 leaves no channel of the first stage's 8; it must be at most 8"),
        (
            "resnet18",
            {"shortcut": "zero_pad", "stem_width": 128},
            "can add channels but not remove.*128.*64.*stem_width <= 64",
        ),
        (
            "resnet18",
            {"shortcut": "zero_pad_centred", "stem_width": 128},
            "shortcut = 'zero_pad_centred' can add channels but not remove.*stem_width <= 64",
        ),
        (
            "resnet18",
            {"block": ProjectsOnly, "shortcut": "zero_pad"},
            "'zero_pad' does not fit ProjectsOnly; choose 'projection'",
        ),
        ("plain18", {"zero_init_residual": True}, "zero_init_residual = True .*pass zero_init_residual=False"),
        ("plain18", {"stochastic_depth": 0.1}, "stochastic_depth = 0.1 with shortcut = 'none'.*stochastic_depth=0"),
        ("cifar_resnet20", {"norm": "group"}, "32 groups do not divide a width of 16 channels; choose fewer"),
        ("resnet18", {"norm": partial(nn.GroupNorm, num_groups=48)}, "48 groups do not divide a width of 64 channels"),
    ],
)
def test_impossible_networks(name, options, message):
    with pytest.raises(ModelError, match=message):
        create_model(name, **options)


def test_without_create_model_too():
    with pytest.raises(ModelError, match="output_stride = 64 must be 8, 16 or 32"):
        ResNet(block="basic", stage_sizes=(1, 1), output_stride=64)


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({}, (1, 31, 64, 3), "31x64 pixels are smaller than the network's stride of 32.*stem='cifar'"),
        ({"output_stride": 8}, (1, 32, 7, 3), "32x7 pixels are smaller than the network's stride of 8"),
        ({"stem": "cifar"}, (1, 7, 7, 3), "7x7 pixels are smaller than the network's stride of 8"),
        ({}, (64, 64, 3), r"float32 of shape \(64, 64, 3\); they must be floating point \(N, H, W, C\)"),
    ],
)
def test_images_that_do_not_fit(options, shape, message):
    model = create_model("resnet18", **options)
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    with pytest.raises(ModelError, match=message):
        jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)


def test_pixels_as_integers():
    with pytest.raises(ModelError, match="images are uint8 .*scale pixels"):
        create_model("resnet18").init(jax.random.key(0), jnp.zeros((1, 64, 64, 3), jnp.uint8), train=False)


def test_stochastic_depth_without_a_key():
    model = create_model("resnet18", stochastic_depth=0.1)
    with pytest.raises(ModelError, match=r"stochastic_depth = 0.1 draws random numbers.*rngs=\{'dropout': key\}"):
        model.apply({}, jnp.zeros((2, 32, 32, 3)), train=True, mutable=["batch_stats"])


def test_the_edge_of_what_is_possible_builds():
    """One step away from the refusals above."""
    for name, options in [
        ("resnet50", {"output_stride": 8, "num_classes": 0, "remat": (1, 2, 3, 4), "stochastic_depth": 0.99}),
        ("resnext50_32x4d", {"width": 16}),
        ("seresnet18", {"width": 16}),
        ("resnet18", {"shortcut": "zero_pad", "stem_width": 16}),
        ("resnet18", {"block": ProjectsOnly}),
        ("plain18", {}),
        ("cifar_resnet20", {"norm": partial(nn.GroupNorm, num_groups=16)}),
    ]:
        create_model(name, **options)


def test_groups_that_do_not_divide_the_channels():
    with pytest.raises(ModelError, match="Conv: 3 groups do not divide 8 input and 9 output channels"):
        jax.eval_shape(lambda x: Conv(9, 3, groups=3).init(jax.random.key(0), x), jnp.zeros((1, 4, 4, 8)))


@pytest.mark.parametrize(
    ("option", "here"),
    [
        ("pretrained", "load_pretrained"),
        ("weights", "load_pretrained"),
        ("in_chans", r"init\(model, key, channels=...\)"),
        ("act_layer", "act="),
        ("features_only", "features=True"),
    ],
)
def test_options_of_other_libraries_are_named_as_here(option, here):
    with pytest.raises(ModelError, match=f"no option '{option}', which other libraries have; here it is .*{here}"):
        create_model("resnet18", **{option: 1})
