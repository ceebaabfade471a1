"""A network for segmentation that starts from weights: of its backbone alone, or of its own kind."""

import re
from dataclasses import replace

import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax.errors import WeightsError
from resnet_jax.run.start import load_beginning
from resnet_jax.survival.digests import by_name
from resnet_jax.tasks.segment.task import HEAD
from resnet_jax.tasks.table import task_of
from resnet_jax.weights import WEIGHT_SETS, save_weights

from .test_start import config_of
from .weights.networks import random_variables

pytestmark = pytest.mark.usefixtures("short_runs")
NAMES = ("background", "cat", "dog")
LETTERS = tuple("abcdefghijklmnopqrstu")
RGB = ("--data.channels", "3", "--data.mean", *"000", "--data.std", *"111")


def begin(weights, name, names=NAMES, channels=3, **start):
    """What a run with this network begins with."""
    config = config_of(weights, (), *RGB, "--model.name", "cifar_resnet8", **start)
    task = task_of(config)
    config = replace(config, model=replace(config.model, name=name, num_classes=len(names)))
    model = rn.create_model(name, num_classes=len(names))
    init = lambda key: rn.init(model, key, channels=channels)
    return load_beginning(config, replace(task, init=init, head=HEAD), names)


def write(path, name, classes, channels=3):
    variables = random_variables(rn.create_model(name, num_classes=classes), channels=channels)
    save_weights(path, variables)
    return by_name(variables)


@pytest.mark.parametrize(
    ("head", "root", "parts"),
    [
        ("fcn", "backbone", "aux_classifier and classifier are"),
        ("unet", "encoder", "decoder and segmentation_head_0 are"),
    ],
)
def test_a_backbone_comes_from_weights_for_classification(tmp_path, head, root, parts):
    written = write(tmp_path / "a.safetensors", "cifar_resnet8", 10)
    begun = begin(tmp_path / "a.safetensors", f"{head}_cifar_resnet8")
    expected = {name.replace("/", f"/{root}/", 1): x for name, x in written.items() if "/fc/" not in name}
    assert begun.arrays.keys() == expected.keys()
    for name, array in begun.arrays.items():
        np.testing.assert_array_equal(array, expected[name])
    assert begun.new
    assert not any(name.split("/")[1] == root for name in begun.new)
    (remark,) = begun.remarks
    assert remark == (
        f"the weights are of a network for classification, whose backbone is taken; {parts} made new, and "
        "params/fc/bias, params/fc/kernel are left out"
    )


def test_its_first_convolution_is_made_for_grey_images(tmp_path):
    written = write(tmp_path / "a.safetensors", "cifar_resnet8", 10)
    begun = begin(tmp_path / "a.safetensors", "unet_cifar_resnet8", channels=1)
    found = begun.arrays["params/encoder/conv1/kernel"]
    np.testing.assert_allclose(found, written["params/conv1/kernel"].sum(axis=2, keepdims=True), rtol=1e-6)
    assert "params/encoder/conv1/kernel is made from that of 3 channels for 1" in begun.remarks[1]


@pytest.mark.parametrize(
    ("name", "names", "new", "remark"),
    [
        (
            "published",
            LETTERS,
            ("bias", "kernel"),
            r".* are made new, since their classes \(__background__, aeroplane, ",
        ),
        ("published", rn.class_names("voc"), (), None),
        ("own", tuple("abcdef"), ("bias", "kernel"), "params/aux_classifier/4/bias, .* do not fit, and are made new"),
        ("own", rn.class_names("voc"), (), ".* are kept: they fit, and nothing names the classes of the weights"),
    ],
)
def test_only_the_last_layers_are_new_for_other_classes(tmp_path, monkeypatch, name, names, new, remark):
    """A published file is known by its name."""
    published = replace(next(known for known in WEIGHT_SETS if "fcn" in known.model), file="published.safetensors")
    monkeypatch.setattr("resnet_jax.run.start.WEIGHT_SETS", [published])
    path = tmp_path / f"{name}.safetensors"
    written = write(path, "fcn_cifar_resnet8", 21)
    begun = begin(path, "fcn_cifar_resnet8", names)
    heads = [f"params/{head}/4/{leaf}" for head in ("aux_classifier", "classifier") for leaf in new]
    assert sorted(begun.new) == heads
    assert begun.arrays.keys() == written.keys() - {*heads}
    assert bool(begun.remarks) == bool(remark)
    if remark:
        assert re.match(remark, begun.remarks[0])


def test_published_names_mean_the_backbone_where_nothing_else_is_published(monkeypatch, tmp_path):
    """`IMAGENET1K_V2` is no set of `deeplabv3_resnet50`, and `DEFAULT` is its own."""
    asked = []
    monkeypatch.setattr("resnet_jax.run.start.load_pretrained", lambda name, weights: asked.append(name) or 1 / 0)
    for name, weights in (
        ("deeplabv3_resnet50", "IMAGENET1K_V2"),
        ("deeplabv3_resnet50", "COCO_WITH_VOC_LABELS_V1"),
        ("deeplabv3_resnet50", "DEFAULT"),
        ("unet_resnet50", "DEFAULT"),
    ):
        with pytest.raises(ZeroDivisionError, match="division"):
            begin(weights, name)
    assert asked == ["resnet50", "deeplabv3_resnet50", "deeplabv3_resnet50", "resnet50"]
    monkeypatch.undo()
    with pytest.raises(WeightsError, match="start.weights = 'COCO_WITH_VOC_LABELS_V1' for model.name = 'unet_resn"):
        begin("COCO_WITH_VOC_LABELS_V1", "unet_resnet50")


def test_what_does_not_fit_is_refused(tmp_path):
    write(tmp_path / "a.safetensors", "cifar_resnet20", 10)
    with pytest.raises(WeightsError, match="model.name = 'fcn_cifar_resnet8': .*this file looks like cifar_resnet20"):
        begin(tmp_path / "a.safetensors", "fcn_cifar_resnet8")
    write(tmp_path / "b.safetensors", "fcn_cifar_resnet8", 3)
    with pytest.raises(WeightsError, match="for model.name = 'unet_cifar_resnet8': .*looks like fcn_cifar_resnet8"):
        begin(tmp_path / "b.safetensors", "unet_cifar_resnet8")
