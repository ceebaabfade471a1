"""Files that do not fit a network: what the converter says of them."""

import ml_dtypes
import numpy as np
import pytest

from resnet_jax.errors import WeightsError
from resnet_jax.models import create_model
from resnet_jax.weights import from_torchvision, to_torchvision, translate

from .networks import random_variables, shapes_only

torch = pytest.importorskip("torch")


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


def test_an_unknown_layout_is_refused(model):
    with pytest.raises(WeightsError, match="unknown layout 'timm'. Did you mean 'timm_d'?"):
        to_torchvision(random_variables(model), layout="timm")
