"""The converter against torchvision's and timm's own state dictionaries."""

import jax
import ml_dtypes
import numpy as np
import pytest

from resnet_jax.errors import WeightsError
from resnet_jax.models import create_model, list_models
from resnet_jax.weights import (
    candidates,
    from_torchvision,
    identify,
    layout_of,
    to_tensors,
    to_torchvision,
    translate,
)

from ..depth import deep_is_slow
from .networks import random_variables, shapes_only

torch = pytest.importorskip("torch")

TORCHVISION = [
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
]
OURS_IN_TIMM = [
    name
    for pattern in ("resnet*", "seresnet*", "resnext*")
    for name in list_models(pattern)
    if name not in TORCHVISION and not name.startswith("resnetv2")
]


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for key, array in expected.items():
        assert got[key].dtype == array.dtype, key
        np.testing.assert_array_equal(got[key], array, err_msg=key)


@pytest.mark.parametrize("name", deep_is_slow(TORCHVISION))
def test_keys_and_shapes_are_torchvisions(name, torchvision):
    with torch.device("meta"):
        theirs = shapes_only(torchvision.models.get_model(name))
    assert translate(theirs, create_model(name)).keys() == theirs.keys()


@pytest.mark.parametrize("name", ["resnet50", "wide_resnet50_2", "resnext50_32x4d"])
def test_networks_are_recognised(name, torchvision):
    with torch.device("meta"):
        theirs = shapes_only(torchvision.models.get_model(name, num_classes=3))
    assert identify(theirs) == name


@pytest.mark.parametrize("name", ["resnet50d", "resnet50c", "resnet50s", "resnet50", "seresnet50", "resnet26t"])
def test_timms_networks_are_recognised_by_their_numbers(name, torchvision):
    """C and D nets have the same arrays, and other numbers in the keys of the shortcuts."""
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        theirs = shapes_only(timm.create_model(name, num_classes=3))
    ours = create_model(name, num_classes=3)
    if name == "resnet50c":  # what our own names for a D net are too
        assert candidates(theirs)[:2] == ["resnet50c", "resnet50d"]
        with pytest.raises(WeightsError, match="may be of resnet50c or resnet50d.*say which it is: --model NAME"):
            identify(theirs)
    else:
        assert identify(theirs) == name
    assert translate(theirs, ours, layout=layout_of(ours)).keys() == theirs.keys()


def test_networks_with_the_same_arrays_are_all_named(torchvision):
    with torch.device("meta"):
        theirs = shapes_only(torchvision.models.resnet50())
    assert candidates(theirs) == ["resnet50", "resnet50_v1", "resnetblur50"]


@pytest.mark.parametrize("name", deep_is_slow(OURS_IN_TIMM))
def test_keys_and_shapes_are_timms(name, torchvision):
    timm = pytest.importorskip("timm")
    if not timm.is_model(name):
        pytest.skip(f"timm has no {name}")
    with torch.device("meta"):
        theirs = shapes_only(timm.create_model(name, num_classes=5))
    model = create_model(name, num_classes=5)
    assert translate(theirs, model, layout=layout_of(model)).keys() == theirs.keys()


def test_the_shortcut_of_a_d_net_is_numbered_from_one():
    model = create_model("resnet18d", num_classes=2, width=8)
    assert layout_of(model) == "timm_d"
    keys = to_torchvision(random_variables(model), layout="timm_d")
    assert {"layer2.0.downsample.1.weight", "layer2.0.downsample.2.running_var", "conv1.3.weight"} <= keys.keys()
    assert not any("downsample.0" in key for key in keys)


@pytest.mark.parametrize(
    ("name", "options", "keys"),
    [
        # github.com/akamaster/pytorch_resnet_cifar10, whose option A is the centred one
        ("cifar_resnet20_centred", {}, {"linear.bias", "layer2.0.conv1.weight"}),
        # github.com/kuangliu/pytorch-cifar
        (
            "resnet18",
            {"stem": "cifar"},
            {"linear.bias", "layer2.0.shortcut.0.weight", "layer4.0.shortcut.1.running_var"},
        ),
    ],
)
def test_names_of_cifar_networks(name, options, keys):
    model = create_model(name, num_classes=2, **options)
    variables = random_variables(model)
    theirs = to_torchvision(variables, layout="pytorch_cifar")
    assert keys <= theirs.keys()
    assert not any("fc" in key or "downsample" in key for key in theirs)
    back = from_torchvision(theirs, model)
    jax.tree.map(np.testing.assert_array_equal, {name: back[name] for name in variables}, variables)
    assert translate(theirs, model, layout="torchvision").keys() == to_torchvision(variables).keys()


def test_a_layout_says_what_names_and_shapes_do_not():
    """Zeros before or after the channels, a pool before a convolution: the arrays are the same."""
    centred = create_model("cifar_resnet20_centred", num_classes=2)
    theirs = to_torchvision(random_variables(centred), layout="pytorch_cifar")
    assert candidates(theirs) == ["cifar_resnet20_centred"]
    assert candidates(translate(theirs, centred)) == ["cifar_resnet20", "cifar_resnet20_centred", "cifar_plain20"]
    after = create_model("cifar_resnet20", num_classes=2)
    with pytest.raises(
        WeightsError, match="layout 'pytorch_cifar', and no .* 'zero_pad' .*like cifar_resnet20_centred"
    ):
        from_torchvision(theirs, after)
    with pytest.raises(WeightsError, match="'zero_pad' is written in the layout 'pytorch_cifar'.*Choose 'torchvision'"):
        translate(translate(theirs, centred), after, layout="pytorch_cifar")
    pooled = create_model("resnet18d", num_classes=2, width=8)
    pools = to_torchvision(random_variables(pooled), layout="timm_d")
    with pytest.raises(WeightsError, match="layout 'timm_d', and no .* 'projection' is written so.*another shortcut"):
        from_torchvision(pools, create_model("resnet18d", num_classes=2, width=8, shortcut="projection"))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_torch_to_flax_to_torch_is_bit_equal(resnet18, model, dtype):
    theirs = {key: a if a.dtype == np.int64 else a.astype(dtype) for key, a in resnet18.items()}
    variables = from_torchvision(theirs, model)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables["params"])} == {np.dtype(np.float32)}
    assert_same(to_torchvision(variables, dtype=dtype), theirs)


def test_flax_to_torch_to_flax_is_bit_equal(model):
    variables = random_variables(model)
    back = from_torchvision(to_torchvision(variables, num_batches_tracked=42), model)
    counts = back.pop("num_batches_tracked")
    assert {int(count) for count in jax.tree.leaves(counts)} == {42}
    assert jax.tree.structure(back) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, back, variables)


def test_counts_survive_jax_arrays_of_32_bits(resnet18, model):
    variables = jax.tree.map(jax.numpy.asarray, from_torchvision(resnet18, model))
    assert_same(to_torchvision(variables), resnet18)


def test_a_file_without_counts_is_complete(resnet18, model):
    theirs = {key: array for key, array in resnet18.items() if not key.endswith("num_batches_tracked")}
    variables = from_torchvision(theirs, model)
    assert variables.keys() == {"params", "batch_stats"}
    exported = to_torchvision(variables, num_batches_tracked=9)
    assert {int(array) for key, array in exported.items() if key.endswith("num_batches_tracked")} == {9}


def test_variables_with_counts_apply(resnet18, model):
    variables = from_torchvision(resnet18, model)
    images = np.zeros((1, 33, 33, 3), np.float32)
    assert jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images).shape == (1, 7)


@pytest.mark.parametrize("channels", [1, 4])
def test_stems_of_other_channels(model, channels):
    variables = random_variables(model, channels)
    state_dict = to_torchvision(variables)
    assert state_dict["conv1.weight"].shape == (64, channels, 7, 7)
    assert from_torchvision(state_dict, model, channels=channels)["params"]["conv1"]["kernel"].shape[2] == channels
    with pytest.raises(WeightsError, match=rf"to take them as they are pass channels={channels}\n.*conv1\.weight"):
        from_torchvision(state_dict, model)


def test_exported_arrays_load_into_torchvision(torchvision, model):
    state_dict = to_torchvision(random_variables(model))
    torchvision.models.resnet18(num_classes=7).load_state_dict(to_tensors(state_dict), strict=True)


def test_huggingface_names_convert_both_ways(resnet18, model):
    variables = from_torchvision(resnet18, model)
    theirs = to_torchvision(variables, layout="huggingface")
    assert theirs.keys() >= {
        "resnet.embedder.embedder.convolution.weight",
        "resnet.embedder.embedder.normalization.running_mean",
        "resnet.encoder.stages.0.layers.1.layer.0.convolution.weight",
        "resnet.encoder.stages.3.layers.0.layer.1.normalization.num_batches_tracked",
        "resnet.encoder.stages.1.layers.0.shortcut.convolution.weight",
        "resnet.encoder.stages.1.layers.0.shortcut.normalization.bias",
        "classifier.1.weight",
    }
    assert identify(theirs) == "resnet18"
    jax.tree.map(np.testing.assert_array_equal, from_torchvision(theirs, model), variables)
    assert_same(translate(theirs, model, layout="torchvision"), resnet18)
