"""Files of networks that find objects: recognised, converted both ways, with old names, and refused by name."""

import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax.errors import WeightsError
from resnet_jax.run.network import load_network
from resnet_jax.survival.digests import by_name
from resnet_jax.weights import candidates, find_weight_set, options_in, to_tensors, write_state_dict

from .networks import random_variables, shapes_only

torch = pytest.importorskip("torch")

NAMES = rn.list_models("*_fpn*", task="detect")  # those of torchvision
SMALL = {"stage_sizes": (1, 1, 1, 1), "width": 4, "num_classes": 5}
OLD = (  # of torchvision before 0.13, by its own loaders
    *(
        (f"backbone.fpn.{part}.{i}.0", f"backbone.fpn.{part}.{i}")
        for part in ("inner_blocks", "layer_blocks")
        for i in range(4)
    ),
    ("rpn.head.conv.0.0", "rpn.head.conv"),
    *((f"roi_heads.mask_head.{i}.0", f"roi_heads.mask_head.mask_fcn{i + 1}") for i in range(4)),
    *(
        (f"head.{tower}_head.conv.{i}.0", f"head.{tower}_head.conv.{2 * i}")
        for tower in ("classification", "regression")
        for i in range(4)
    ),
)


def module_of(torchvision, name, classes=91):
    with torch.device("meta"):
        return torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=classes)


def with_old_names(arrays):
    before = {f"{now}.{array}": f"{old}.{array}" for now, old in OLD for array in ("weight", "bias")}
    return {before.get(key, key): array for key, array in arrays.items()}


def without_counts(arrays):
    """As networks with `FrozenBatchNorm2d` write them."""
    return {key: array for key, array in arrays.items() if not key.endswith("num_batches_tracked")}


def small_module_of(torchvision, classes):
    """Mask R-CNN on resnet18, for which torchvision has no name."""
    detection, options = torchvision.models.detection, {"trainable_layers": 5, "norm_layer": torch.nn.BatchNorm2d}
    with torch.device("meta"):
        backbone = detection.backbone_utils.resnet_fpn_backbone(backbone_name="resnet18", weights=None, **options)
        return detection.MaskRCNN(backbone, classes)


def check_names_and_shapes(name, module, backbones):
    written = rn.to_torchvision(random_variables(rn.create_model(name, num_classes=7)))
    module.load_state_dict(to_tensors(written), strict=True, assign=True)
    arrays = shapes_only(module)
    assert options_in(name, arrays) == {"num_classes": 7}
    kind, _, *end = name.split("_")
    assert candidates(arrays) == ["_".join([kind, backbone, *end]) for backbone in backbones]


def test_torchvision_loads_what_is_written_and_names_and_shapes_tell_the_network(torchvision):
    name = "maskrcnn_resnet18_fpn"
    check_names_and_shapes(name, small_module_of(torchvision, 7), ("resnet18", "resnetblur18"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_so_it_is_for_each_of_torchvisions(torchvision, name):
    check_names_and_shapes(name, module_of(torchvision, name, 7), ("resnet50", "resnet50_v1", "resnetblur50"))


@pytest.mark.parametrize("kind", ["maskrcnn", "retinanet", "fcos"])
def test_files_of_today_and_of_old(kind):
    model = rn.create_model(f"{kind}_resnet18_fpn", **SMALL)
    variables = random_variables(model)
    arrays = rn.to_torchvision(variables)
    old = without_counts(with_old_names(arrays))
    assert len(old.keys() - arrays.keys()) >= 12
    for file in (arrays, old):
        back = by_name(rn.from_torchvision(file, model))
        for path, array in by_name(variables).items():
            np.testing.assert_array_equal(back[path], array)


def test_both_names_of_an_array_are_one_too_many():
    model = rn.create_model("retinanet_resnet18_fpn", **SMALL)
    arrays = rn.to_torchvision(random_variables(model))
    arrays["backbone.fpn.inner_blocks.0.weight"] = arrays["backbone.fpn.inner_blocks.0.0.weight"]
    with pytest.raises(WeightsError, match=r"1 unexpected: backbone\.fpn\.inner_blocks\.0\.weight"):
        rn.from_torchvision(arrays, model)


@pytest.mark.slow
def test_the_wrong_network_is_named(torchvision):
    arrays = shapes_only(module_of(torchvision, "retinanet_resnet50_fpn"))
    with pytest.raises(
        WeightsError, match="this file looks like retinanet_resnet50_fpn or retinanet_resnet50_v1_fpn or"
    ):
        rn.from_torchvision(arrays, rn.create_model("retinanet_resnet50_fpn_v2"))
    with pytest.raises(WeightsError, match=r"pass num_classes=91 .*\n.*cls_logits.weight \(819, 256, 3, 3\) != \(18, "):
        rn.from_torchvision(arrays, rn.create_model("retinanet_resnet50_fpn", num_classes=2))


def test_a_published_set_computes_without_epsilon(monkeypatch, tmp_path):
    """The set's file has 170 MB; this one has its names, which are the old ones."""
    published = find_weight_set("maskrcnn_resnet50_fpn")
    assert published.class_names[-1] == "toothbrush"
    small = SMALL | {"pyramid_width": 8, "head_width": 8, "mask_width": 8}
    model = rn.create_model(published.model, **small)
    path = tmp_path / published.file.replace(".pth", ".safetensors")
    write_state_dict(path, without_counts(with_old_names(rn.to_torchvision(random_variables(model)))))
    monkeypatch.setattr("resnet_jax.weights.load.find_file", lambda found: path)
    del small["num_classes"]
    loaded, variables = rn.load_pretrained("maskrcnn_resnet50_fpn", **small)
    assert (loaded.backbone.norm, loaded.num_classes, loaded.mask) == ("frozen_eps0", 5, True)
    assert loaded.clone(backbone=loaded.backbone.clone(norm="batch")) == model
    assert variables["params"]["mask_predictor"]["conv5_mask"]["kernel"].shape == (2, 2, 8, 8)
    assert rn.load_pretrained("maskrcnn_resnet50_fpn", path, **small)[0].backbone.norm == "batch"  # not under its name


def test_a_file_without_a_run(tmp_path):
    model = rn.create_model("fcos_resnet18_fpn", num_classes=5)
    write_state_dict(tmp_path / "a.safetensors", rn.to_torchvision(random_variables(model)))
    network = load_network(str(tmp_path / "a.safetensors"), "fcos_resnet18_fpn")
    assert network.model == model
    assert (network.preset.resize, network.preset.crop, network.class_names) == (800, 0, ("0", "1", "2", "3", "4"))
