"""Networks against torchvision's and timm's: trees of every name; outputs, in float64, with random statistics."""

import jax
import numpy as np
import pytest

from resnet_jax.models import create_model, list_models

TORCHVISION = list_models()[:10]
TIMM = [
    name for name in list_models("*resne*") if name not in TORCHVISION and not name.startswith(("cifar", "resnetv2"))
]
TIMM = [name for name in TIMM if not name.endswith("_v1")]
QUICK = [
    *("resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "resnet50_gn", "resnet26d", "resnet26t"),
    *("seresnet18", "seresnext26d_32x4d", "resnetblur18"),
]
DILATED = [("resnet50", 8), ("resnet18", 8), ("resnet26d", 8), ("seresnext26d_32x4d", 16), ("resnetblur18", 16)]


def assert_agree(name, oracle, shape, output_stride):
    """Every stage to 1e-10 of its largest value."""
    module = oracle.randomize(oracle.build(name, output_stride=output_stride))
    x = np.random.default_rng(0).normal(size=(1, *shape, 3))
    theirs = oracle.outputs(module, x)
    model = create_model(name, output_stride=output_stride)
    ours = model.apply(oracle.variables(module), x, train=False, features=True)
    assert ours.keys() == theirs.keys()
    for feature, expected in theirs.items():
        assert ours[feature].shape == expected.shape
        assert ours[feature].dtype == np.float64
        error = np.abs(ours[feature] - expected).max() / np.abs(expected).max()
        assert error < 1e-10, f"{feature}: relative error {error:.1e}"


@pytest.mark.parametrize("name", TORCHVISION + TIMM)
def test_tree_is_upstreams(name, oracle):
    """Every name and shape; with the stages' outputs of one net of a kind this proves the others of that kind."""
    model = create_model(name)
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    ours = jax.eval_shape(lambda key, x: model.init(key, x, train=False), jax.random.key(0), x)
    theirs = oracle.shapes(oracle.build(name, device="meta"))
    shapes = lambda tree: {
        jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    assert shapes(ours) == shapes(theirs)


@pytest.mark.parametrize("name", QUICK)
def test_stages_are_upstreams(name, oracle, float64):
    assert_agree(name, oracle, (65, 97), output_stride=32)


@pytest.mark.parametrize(("name", "output_stride"), DILATED)
def test_dilated_stages_are_upstreams(name, output_stride, oracle, float64):
    assert_agree(name, oracle, (65, 97), output_stride)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "output_stride"), [((65, 97), 32), ((65, 97), 16), ((65, 97), 8), ((224, 224), 32)])
@pytest.mark.parametrize("name", TORCHVISION + TIMM)
def test_every_net_is_upstreams(name, size, output_stride, oracle, float64):
    assert_agree(name, oracle, size, output_stride)
