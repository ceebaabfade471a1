"""Files of networks for segmentation: read, recognised, converted, and refused by name."""

import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax.cli import main
from resnet_jax.errors import DataError, WeightsError
from resnet_jax.parity import make_reference
from resnet_jax.run.network import load_network
from resnet_jax.survival.digests import by_name
from resnet_jax.weights import candidates, read_state_dict, save_weights, to_tensors, write_state_dict

from .networks import random_variables, shapes_only

torch = pytest.importorskip("torch")


def arrays_of(name, classes=21, **options):
    with torch.device("meta"):
        return shapes_only(make_reference(name, classes, **options))


@pytest.fixture(scope="module")
def deeplab(torchvision, tmp_path_factory):
    """A file of a network of random numbers with 4 classes, without the auxiliary head."""
    model = rn.create_model("deeplabv3_resnet18", num_classes=4, aux_loss=False)
    variables = random_variables(model)
    path = tmp_path_factory.mktemp("deeplab") / "a.safetensors"
    save_weights(path, variables)
    return path, variables


@pytest.mark.parametrize(
    ("name", "options", "backbones"),
    [
        ("unet_resnet18", {}, ["resnet18", "resnetblur18"]),
        *(
            pytest.param(*row, marks=pytest.mark.slow)
            for row in (
                ("fcn_resnet50", {}, ["resnet50", "resnet50_v1", "resnetblur50"]),
                ("fcn_resnet50", {"aux_loss": False}, ["resnet50", "resnet50_v1", "resnetblur50"]),
                ("deeplabv3_resnet50", {"classes": 7}, ["resnet50", "resnet50_v1", "resnetblur50"]),
                ("unet_resnet34", {}, ["resnet34"]),
            )
        ),
    ],
)
def test_a_network_is_recognised_by_its_names_and_shapes(torchvision, name, options, backbones):
    head = name.split("_")[0]
    assert candidates(arrays_of(name, **options)) == [f"{head}_{backbone}" for backbone in backbones]


def test_classes_and_heads_come_from_the_file(deeplab):
    model, variables = rn.load_pretrained("deeplabv3_resnet18", deeplab[0])
    assert (model.num_classes, model.aux_loss) == (4, False)
    kernel = variables["params"]["backbone"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, deeplab[1]["params"]["backbone"]["conv1"]["kernel"])
    _, grey = rn.load_pretrained("deeplabv3_resnet18", deeplab[0], channels=1)
    np.testing.assert_allclose(
        grey["params"]["backbone"]["conv1"]["kernel"], np.sum(kernel, axis=2, keepdims=True), rtol=1e-6
    )


def test_a_file_without_an_auxiliary_head(deeplab):
    text = r"the file has no auxiliary head, and the network has one; pass aux_loss=False\n  8 missing: aux_classifier"
    with pytest.raises(WeightsError, match=text):
        rn.load_pretrained("deeplabv3_resnet18", deeplab[0], aux_loss=True)


def test_a_published_set_has_its_auxiliary_head(torchvision, monkeypatch, tmp_path):
    """The set's file has 135 MB; this one has its names."""
    model = rn.create_model("fcn_resnet50", stage_sizes=(1, 1, 1, 1), width=4)
    save_weights(tmp_path / "fcn.safetensors", random_variables(model))
    monkeypatch.setattr("resnet_jax.weights.load.find_file", lambda published: tmp_path / "fcn.safetensors")
    loaded, variables = rn.load_pretrained("fcn_resnet50", stage_sizes=(1, 1, 1, 1), width=4)
    assert loaded == model
    assert loaded.aux_loss
    assert variables["params"]["aux_classifier"]["4"]["kernel"].shape == (1, 1, 16, 21)
    text = (
        r"the file has an auxiliary head, and the network none, as aux_loss=False says. Leave aux_loss out: the "
        r'network then gives "aux" beside "out", .*\n  8 unexpected: aux_classifier'
    )
    with pytest.raises(WeightsError, match=text):
        rn.load_pretrained("fcn_resnet50", aux_loss=False, stage_sizes=(1, 1, 1, 1), width=4)


@pytest.mark.parametrize("prefix", ["module.", "net.model."])
def test_prefixes_are_removed(deeplab, tmp_path, prefix):
    """The backbone's own prefix stays."""
    arrays = read_state_dict(deeplab[0])
    write_state_dict(tmp_path / "b.safetensors", {prefix + key: array for key, array in arrays.items()})
    assert read_state_dict(tmp_path / "b.safetensors").keys() == arrays.keys()


def test_convert_recognises_and_translates(deeplab, tmp_path, capsys):
    target = tmp_path / "b.pth"
    main(["convert", str(deeplab[0]), str(target)])
    assert "deeplabv3_resnet18: wrote" in capsys.readouterr().out
    before, after = read_state_dict(deeplab[0]), read_state_dict(target)
    assert before.keys() == after.keys()
    for key, array in before.items():
        np.testing.assert_array_equal(array, after[key])


@pytest.mark.parametrize(("layout", "number"), [("torchvision", 0), ("timm_d", 1)])
def test_d_networks_keep_timms_names(layout, number):
    model = rn.create_model("fcn_resnet18d", num_classes=3)
    variables = random_variables(model)
    arrays = rn.to_torchvision(variables, layout=layout)
    assert arrays[f"backbone.layer2.0.downsample.{number}.weight"].ndim == 4
    back = by_name(rn.from_torchvision(arrays, model))
    for name, array in by_name(variables).items():
        np.testing.assert_array_equal(back[name], array)


def test_the_wrong_network_is_named(deeplab, torchvision, tmp_path):
    arrays = read_state_dict(deeplab[0])
    for other in ("fcn_resnet18", "resnet18", "unet_resnet18"):
        with pytest.raises(WeightsError, match="this file looks like deeplabv3_resnet18 or deeplabv3_resnetblur18, "):
            rn.load_pretrained(other, deeplab[0])
    with pytest.raises(WeightsError, match=r"pass num_classes=4 .*\n.*classifier.4.weight \(4, 256, 1, 1\) != \(6, 2"):
        rn.from_torchvision(arrays, rn.create_model("deeplabv3_resnet18", num_classes=6, aux_loss=False))
    del arrays["classifier.0.convs.4.2.bias"]
    with pytest.raises(WeightsError, match=r"1 missing: classifier\.0\.convs\.4\.2\.bias"):
        rn.from_torchvision(arrays, rn.create_model("deeplabv3_resnet18", num_classes=4, aux_loss=False))
    classifier = arrays_of("resnet18", 5)
    with pytest.raises(WeightsError, match="this file looks like resnet18 or resnetblur18, "):
        rn.from_torchvision(classifier, rn.create_model("fcn_resnet18"))


def test_torchvision_loads_what_is_written(torchvision):
    model = rn.create_model("fcn_resnet50", num_classes=2)
    with torch.device("meta"):
        module = make_reference("fcn_resnet50", 2)
    shapes = rn.to_torchvision(random_variables(model))
    module.load_state_dict(to_tensors(shapes), strict=True, assign=True)
    assert module.classifier[4].bias.tolist() == shapes["classifier.4.bias"].tolist()


def test_a_file_without_a_run_shows_whole_images(deeplab, caplog):
    network = load_network(str(deeplab[0]))
    assert (network.model.num_classes, network.preset.resize, network.preset.crop) == (4, 520, 0)
    assert network.class_names == ("0", "1", "2", "3")


def test_images_of_other_shapes_are_prepared_one_at_a_time(torchvision):
    """As torchvision does it: the shorter side is resized, nothing is cut off."""
    from PIL import Image

    published = rn.find_weight_set("fcn_resnet50")
    pixels = np.random.default_rng(0).integers(0, 256, (90, 131, 3), np.uint8)
    ours = rn.preprocess(pixels, published.preset)
    theirs = torchvision.models.get_model_weights("fcn_resnet50").DEFAULT.transforms()(Image.fromarray(pixels))
    assert ours.shape == (1, 520, 756, 3)
    np.testing.assert_array_equal(ours[0], theirs.permute(1, 2, 0).numpy())
    with pytest.raises(DataError, match=r"of 2 shapes, such as \(520, 756\) and \(756, 520\), .* one at a time"):
        rn.preprocess([pixels, pixels.transpose(1, 0, 2)], published.preset)
