"""The channels of each convolution by themselves: what pruning makes of a network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from resnet_jax.errors import ModelError
from resnet_jax.models import ResNet, create_model, variable_shapes
from resnet_jax.models.blueprint import draw

from ..weights.networks import random_variables
from .test_errors import ProjectsOnly

pytestmark = pytest.mark.usefixtures("compile_quickly")

NAMES = ("cifar_resnet20", "cifar_plain20", "cifar_resnetv2_29", "resnet26t", "resnet50_v1", "seresnext26d_32x4d")


def usual(model):
    plan = draw(model)
    return (*plan.stem_widths, *(n for stage in plan.stages for fields in stage for n in fields.widths))


@pytest.mark.parametrize("name", NAMES)
def test_the_usual_widths_are_those_of_the_name(name):
    model = create_model(name)
    assert variable_shapes(model.clone(widths=usual(model))) == variable_shapes(model)


def test_each_convolution_has_its_own():
    model = create_model(
        "resnet26t", stage_sizes=(1, 2), num_classes=5, widths=(3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 11)
    )
    shapes = {"/".join(path): leaf.shape for path, leaf in flatten_dict(variable_shapes(model)["params"]).items()}
    kernels = {name.removesuffix("/kernel"): shape[-2:] for name, shape in shapes.items() if name.endswith("kernel")}
    assert kernels == {
        "conv1_0": (3, 3),
        "conv1_3": (3, 4),
        "conv1_6": (4, 5),
        "layer1_0/conv1": (5, 6),
        "layer1_0/conv2": (6, 7),
        "layer1_0/conv3": (7, 8),
        "layer2_0/conv1": (8, 9),
        "layer2_0/conv2": (9, 10),
        "layer2_0/conv3": (10, 11),
        "layer2_1/conv1": (11, 12),
        "layer2_1/conv2": (12, 13),
        "layer2_1/conv3": (13, 11),
        "layer1_0/downsample_conv": (5, 8),
        "layer2_0/downsample_conv": (8, 11),
        "fc": (11, 5),
    }


def test_a_zero_padded_shortcut_copies_all_of_its_channels():
    model = create_model("cifar_resnet20", stage_sizes=(1, 1), widths=(3, 2, 3, 4, 7))
    variables = random_variables(model)
    last = variables["params"]["layer2_0"]["bn2"]
    last["scale"], last["bias"] = np.zeros(7, np.float32), np.zeros(7, np.float32)  # the branch is zero
    images = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype(np.float32)
    out = jax.jit(lambda v, x: model.apply(v, x, train=False, features=True))(variables, images)
    assert out["stage2"].shape == (1, 4, 4, 7)
    assert jnp.array_equal(out["stage2"][..., :3], out["stage1"][:, ::2, ::2])
    assert not out["stage2"][..., 3:].any()


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("cifar_resnet20", {"widths": (16,) * 18}, "widths has 18 numbers, .*one for each of the 19 convolutions"),
        ("cifar_resnet20", {"widths": (16,) * 18 + (0,)}, "the least of them 0; .*and each at least 1"),
        (
            "cifar_resnet20",
            {"widths": (16,) * 18 + (8,)},
            "16 come into a block, and it puts out 8; choose widths that",
        ),
        ("resnext50_32x4d", {"stage_sizes": (1,), "widths": (8, 48, 32, 8)}, "groups = 32 do not divide 48 channels"),
        ("seresnet18", {"stage_sizes": (1,), "widths": (8, 8, 12)}, "se_ratio = 16 leaves no channel of .* 12"),
    ],
)
def test_widths_that_do_not_fit(name, options, text):
    with pytest.raises(ModelError, match=text):
        create_model(name, **options)


def test_a_block_that_does_not_say_its_convolutions():
    with pytest.raises(ModelError, match="ProjectsOnly does not say which it has; define usual_widths"):
        ResNet(block=ProjectsOnly, stage_sizes=(1,), widths=(4, 4))
