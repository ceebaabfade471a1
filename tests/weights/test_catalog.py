"""The catalogue against torchvision's own."""

import pytest

from resnet_jax.errors import WeightsError
from resnet_jax.weights import WEIGHT_SETS, class_names, find_weight_set


def theirs(torchvision, name):
    return list(torchvision.models.get_model_weights(name))


def test_the_catalogue_is_torchvisions(torchvision):
    names = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d"]
    names += ["resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"]
    names += ["fcn_resnet50", "fcn_resnet101", "deeplabv3_resnet50", "deeplabv3_resnet101"]
    names += ["r3d_18", "mc3_18", "r2plus1d_18"]
    names += [f"{kind}_resnet50_fpn{end}" for kind in ("fasterrcnn", "maskrcnn", "retinanet") for end in ("", "_v2")]
    names += ["fcos_resnet50_fpn"]
    published = [(name, weights) for name in names for weights in theirs(torchvision, name)]
    assert len(published) == len(WEIGHT_SETS) == 17 + 4 + 3 + 7
    called = {"top1": "acc@1", "top5": "acc@5", "miou": "miou", "pixel_accuracy": "pixel_acc"}
    called |= {"box_ap": "box_map", "mask_ap": "mask_map"}
    for ours, (name, weights) in zip(WEIGHT_SETS, published, strict=True):
        assert (ours.model, ours.name) == (name, weights.name)
        assert ours.url == weights.url
        assert ours.num_params == weights.meta["num_params"]
        (measured,) = weights.meta["_metrics"].values()
        assert {called[metric]: value for metric, value in ours.accuracy.items()} == measured
        assert list(ours.class_names) == weights.meta["categories"]
        assert ours.recipe == weights.meta["recipe"]
        transform = weights.transforms()
        if ours.classes == "coco":  # whose transform is part of the network
            assert (ours.preset.resize, ours.preset.crop, ours.preset.antialias) == (800, 0, False)
            continue
        assert [*(ours.preset.exact or [ours.preset.resize])] == transform.resize_size
        assert {ours.preset.crop} == {*getattr(transform, "crop_size", [0])}
        assert ours.preset.interpolation == transform.interpolation.value
        assert list(ours.preset.mean) == transform.mean
        assert list(ours.preset.std) == transform.std


def test_the_hash_is_in_the_name():
    assert find_weight_set("resnet152", "IMAGENET1K_V2").sha256_start == "f82ba261"


def test_class_names_are_torchvisions(torchvision):
    assert list(class_names()) == torchvision.models.ResNet50_Weights.DEFAULT.meta["categories"]


def test_default_is_the_most_accurate():
    assert find_weight_set("resnet50").name == "IMAGENET1K_V2"
    assert find_weight_set("resnet18").name == "IMAGENET1K_V1"
    assert find_weight_set("r2plus1d_18").name == "KINETICS400_V1"
    assert find_weight_set("fcn_resnet101").name == "COCO_WITH_VOC_LABELS_V1"


def test_unknown_sets_name_the_near_ones():
    with pytest.raises(
        WeightsError, match=r"unknown weight set of resnet50 'IMAGENET1K_V3'. Did you mean 'IMAGENET1K_V"
    ):
        find_weight_set("resnet50", "IMAGENET1K_V3")
    with pytest.raises(WeightsError, match=r"no weights are catalogued for 'resnet50d', only for resnet18, .*hub"):
        find_weight_set("resnet50d")
