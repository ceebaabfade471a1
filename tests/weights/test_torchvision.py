"""The converter against torchvision's and timm's own state dictionaries."""

import jax
import ml_dtypes
import numpy as np
import pytest

from resnet_jax.errors import WeightsError
from resnet_jax.models import create_model, list_models
from resnet_jax.weights import from_torchvision, identify, layout_of, to_tensors, to_torchvision, translate
from resnet_jax.weights.torchvision import candidates

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


def shapes_only(module):
    """The state dictionary of a network that owns no memory, as arrays that own none either."""
    return {key: np.broadcast_to(np.float32(0), tensor.shape) for key, tensor in module.state_dict().items()}


def random_state_dict(module, seed=0):
    generator = np.random.default_rng(seed)
    return {
        key: np.int64(generator.integers(1, 1000))
        if key.endswith("num_batches_tracked")
        else generator.normal(size=tensor.shape).astype(np.float32)
        for key, tensor in module.state_dict().items()
    }


@pytest.fixture(scope="module")
def resnet18(torchvision):
    return random_state_dict(torchvision.models.resnet18(num_classes=7))


@pytest.fixture(scope="module")
def model():
    return create_model("resnet18", num_classes=7)


def random_variables(model, channels=3):
    """Faster than `init`, which compiles."""
    images = jax.ShapeDtypeStruct((1, 64, 64, channels), np.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for key, array in expected.items():
        assert got[key].dtype == array.dtype, key
        np.testing.assert_array_equal(got[key], array, err_msg=key)


@pytest.mark.parametrize("name", TORCHVISION)
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


@pytest.mark.parametrize("name", OURS_IN_TIMM)
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


# Bad input


def test_all_mismatches_are_listed_at_once(resnet18, model):
    broken = {**resnet18, "extra.weight": np.zeros(3, np.float32), "bn1.weight": np.zeros(65, np.float32)}
    del broken["layer1.0.bn1.bias"], broken["fc.bias"]
    with pytest.raises(WeightsError, match="2 missing") as caught:
        from_torchvision(broken, model)
    text = str(caught.value)
    assert "2 missing: layer1.0.bn1.bias, fc.bias" in text or "2 missing: fc.bias, layer1.0.bn1.bias" in text
    assert "1 unexpected: extra.weight" in text
    assert "1 of wrong shape (file != network): bn1.weight (65,) != (64,)" in text


def test_another_head_says_which_option_to_pass(resnet18):
    with pytest.raises(
        WeightsError, match=r"pass num_classes=7 .*Another head.*\n.*fc\.weight \(7, 512\) != \(1000, 512\)"
    ):
        from_torchvision(resnet18, create_model("resnet18"))


def test_the_wrong_network_is_named(torchvision):
    with torch.device("meta"):
        theirs = shapes_only(torchvision.models.resnet101(num_classes=3))
    with pytest.raises(WeightsError, match="this file looks like resnet101"):
        from_torchvision(theirs, create_model("resnet50"))


def test_weights_of_no_known_network(resnet18, model):
    with pytest.raises(WeightsError, match="of no network known here"):
        from_torchvision({"a.weight": np.zeros(1), "b.weight": np.zeros(1)}, model)
    with pytest.raises(WeightsError, match=r"lies under 'backbone\.' in this file; say so: prefix='backbone\.'"):
        from_torchvision({f"backbone.{key}": array for key, array in resnet18.items()}, model)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(resnet18, model, value):
    broken = dict(resnet18)
    broken["layer3.1.bn2.weight"] = resnet18["layer3.1.bn2.weight"].copy()
    broken["layer3.1.bn2.weight"][5:7] = value
    with pytest.raises(WeightsError, match=r"NaN or infinite .* layer3\.1\.bn2\.weight \(2 of 256\)$"):
        from_torchvision(broken, model)


@pytest.mark.parametrize("count", [np.float16(np.inf), np.float16(np.nan), np.float32(-np.inf)])
def test_a_counter_that_was_halved_decides_nothing(resnet18, model, count):
    """PyTorch's counts beyond 65504 are infinite in float16; where there is a number, it is kept."""
    halved = {
        key: np.asarray(count if key == "bn1.num_batches_tracked" else array).astype(np.float16)
        for key, array in resnet18.items()
    }
    halved["layer1.0.bn1.num_batches_tracked"] = np.asarray(1234, np.float16)
    variables = from_torchvision(halved, model)
    counts = variables["num_batches_tracked"]
    assert (counts["bn1"]["count"], counts["layer1_0"]["bn1"]["count"]) == (0, 1234)
    translated = translate(halved, model)
    assert translated["bn1.num_batches_tracked"].dtype == np.int64
    assert to_torchvision(variables)["layer1.0.bn1.num_batches_tracked"] == 1234


@pytest.mark.parametrize(("kind", "fits"), [(np.float16, False), (ml_dtypes.bfloat16, True), (np.float32, True)])
def test_narrowing_makes_nothing_infinite(model, kind, fits):
    variables = random_variables(model)
    variables["batch_stats"]["bn1"]["var"][3] = 1e5
    if fits:
        assert np.isfinite(to_torchvision(variables, dtype=kind)["bn1.running_var"].astype(np.float32)).all()
        return
    with pytest.raises(
        WeightsError, match=r"1 arrays .* float16 cannot: bn1.running_var up to 1e\+05; .*6.55e\+04.*bfloat16"
    ):
        to_torchvision(variables, dtype=kind)


@pytest.mark.parametrize("param_dtype", [np.float16, np.float32])
def test_numbers_too_large_for_the_network_are_refused(resnet18, param_dtype):
    network = create_model("resnet18", num_classes=7, param_dtype=param_dtype)
    large = {key: a.astype(np.float64) if a.dtype == np.float32 else a for key, a in resnet18.items()}
    large["bn1.running_var"][3] = 1e39
    with pytest.raises(
        WeightsError, match=f"1 arrays hold numbers that {np.dtype(param_dtype).name} cannot: bn1.running_var"
    ):
        from_torchvision(large, network)


def test_the_network_that_was_asked_for_is_not_advised(resnet18, model):
    """What is wrong is within it: a counter that is lost, an integer array."""
    broken = {key: array for key, array in resnet18.items() if key != "bn1.num_batches_tracked"}
    with pytest.raises(
        WeightsError, match=r"it is this network but for what follows; .*\n  1 missing: bn1.num_batches"
    ):
        from_torchvision(broken, model)
    with pytest.raises(WeightsError, match=r"head of 7 classes, and the network none. Take it as it is, .*pooled"):
        from_torchvision(resnet18, create_model("resnet18", num_classes=0))


def test_a_few_of_many_names_are_shown(resnet18):
    with pytest.raises(WeightsError, match=r"missing: (\S+, ){4}\S+ and \d+ more") as caught:
        from_torchvision(resnet18, create_model("resnet50"))
    assert len(str(caught.value)) < 1500


def test_integer_weights_are_refused(resnet18, model):
    with pytest.raises(WeightsError, match=r"1 not floating point: conv1\.weight is int8"):
        from_torchvision({**resnet18, "conv1.weight": resnet18["conv1.weight"].astype(np.int8)}, model)


def test_a_leaf_unknown_to_pytorch_is_refused():
    with pytest.raises(WeightsError, match="params/layer1_0/gate/gamma has no name in PyTorch"):
        to_torchvision({"params": {"layer1_0": {"gate": {"gamma": np.zeros(3)}}}})
