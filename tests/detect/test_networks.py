"""The networks by name, their sizes, and what is refused."""

import math

import jax
import jax.numpy as jnp
import pytest

import resnet_jax as rn
from resnet_jax.compress.fold import fold
from resnet_jax.cost.facts import stored_facts
from resnet_jax.errors import ModelError
from resnet_jax.models import create_model, list_models, variable_shapes
from resnet_jax.models.detect.one_stage import Fcos, RetinaNet
from resnet_jax.models.detect.two_stage import TwoStage
from resnet_jax.models.headed import refuse_boxes
from resnet_jax.parity import compare
from resnet_jax.tasks.detect.find import anchors_of, level_sizes

SMALL = {"stage_sizes": (1, 1, 1, 1), "width": 4, "num_classes": 5, "pyramid_width": 8}
FROZEN = 53_120  # scales and biases of the batch normalisations, which torchvision does not count where they are fixed


@pytest.mark.parametrize(
    "published", [found for found in rn.WEIGHT_SETS if found.classes == "coco"], ids=lambda p: p.model
)
def test_parameters_are_torchvisions(published):
    shapes = variable_shapes(create_model(published.model))
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))
    assert count - (FROZEN if published.options else 0) == published.num_params


def test_costs_are_torchvisions(torchvision):
    """Theirs also hold the heads on 1,000 boxes, which have no size of their own here."""
    facts = stored_facts()
    of_boxes = 1000 * (49 * 256 * 1024 + 1024 * 1024 + 1024 * 91 * 5)
    for name, more in (
        *(("retinanet_resnet50_fpn", 0), ("retinanet_resnet50_fpn_v2", 0), ("fcos_resnet50_fpn", 0)),
        ("fasterrcnn_resnet50_fpn", of_boxes),
    ):
        theirs = torchvision.models.get_model_weights(name).DEFAULT.meta["_ops"]
        assert (facts[name].cost.macs + more) / 1e9 == pytest.approx(theirs, abs=1e-3)


def outputs(model, height, width):
    images = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
    return jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variable_shapes(model), images)


@pytest.mark.parametrize(("name", "kind"), [("maskrcnn", TwoStage), ("retinanet", RetinaNet), ("fcos", Fcos)])
def test_any_network_is_a_backbone_and_anchors_are_as_many_as_scores(name, kind):
    others = (("seresnet18", {}), ("resnetv2_18", {"levels": (2, 4)})) if kind is TwoStage else ()
    for backbone, options in (("cifar_resnet20", {}), *others):
        options = {"num_classes": 5, "pyramid_width": 8, **options}
        model = create_model(f"{name}_{backbone}_fpn", **options)
        assert isinstance(model, kind)
        assert hash(model) == hash(create_model(f"{name}_{backbone}_fpn", **options))
        out = outputs(model, 96, 160)
        each = 1 if kind is TwoStage else 5
        places = sum(math.prod(level.shape[1:]) for level in out["scores"]) // each
        assert [level.shape[1:3] for level in out["maps"]] == level_sizes(model, (96, 160))
        assert anchors_of(model, (96, 160)).shape == (places, 4)


@pytest.mark.parametrize("name", list_models("*_fpn*") + list_models("yolof*"))
def test_every_parameter_has_the_dtype_of_the_network(name):
    with jax.enable_x64(True):
        shapes = variable_shapes(create_model(name, **SMALL, param_dtype=jnp.float64))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float64")}


def test_heads_see_grids():
    model = create_model("maskrcnn_resnet18_fpn_v2", **SMALL)
    shapes = variable_shapes(model)
    grid = lambda side: jax.ShapeDtypeStruct((6, side, side, 8), jnp.float32)
    apply = lambda method, *seen: jax.eval_shape(
        lambda v, *seen: model.apply(v, *seen, train=False, method=method), shapes, *seen
    )
    assert [out.shape for out in apply("boxes", grid(7))] == [(6, 5), (6, 5, 4)]
    features = apply("mask_features", grid(14))
    assert features.shape == (6, 14, 14, 256)
    assert apply("masks", features, jax.ShapeDtypeStruct((6,), int)).shape == (6, 28, 28)


def test_names_are_looked_up():
    assert "retinanet_resnet50_fpn_v2" in list_models(task="detect")
    assert rn.models.create.backbone_of("fasterrcnn_seresnet50_fpn_v2") == "seresnet50"
    for name, text in (
        ("retinanet_resnet50", "unknown model 'retinanet_resnet50'. Did you mean 'retinanet_resnet50_fpn'"),
        ("fcos_resnet50_fpn_v2", "unknown model 'fcos_resnet50_fpn_v2'. Did you mean 'fcos_resnet50_fpn' or"),
        ("maskrcnn_resnet51_fpn", "unknown backbone of maskrcnn 'resnet51'. Did you mean 'resnet5"),
    ):
        with pytest.raises(ModelError, match=text):
            create_model(name)
    with pytest.raises(
        ModelError, match="unknown option of fcos_resnet50_fpn 'box_score_thresh'. Did you mean 'score_th"
    ):
        create_model("fcos_resnet50_fpn", box_score_thresh=0.1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_classes": 1}, "num_classes = 1 must be at least 2"),
        ({"trainable_backbone_layers": 6}, "trainable_backbone_layers = 6 must be 0 to 5"),
        ({"levels": (3, 2)}, r"levels = \(3, 2\) must name stages of the backbone, 1 to 4, in this order"),
        (
            {"anchor_sizes": ((8,),)},
            r"for 1 levels, and the pyramid has 5: 4 of the backbone and 1 on top, with strides",
        ),
        (
            {"anchor_sizes": ((8,), (9,), (9,), (9,), (8, 9))},
            "all levels share one head, so each needs the same number",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(options, text):
    with pytest.raises(ModelError, match=text):
        create_model("fasterrcnn_resnet18_fpn", **options)


def test_what_needs_one_array_for_an_image_refuses_them():
    model = create_model("retinanet_resnet18_fpn", **SMALL)
    with pytest.raises(
        ModelError, match="export is for networks that give one array for an image, and RetinaNet gives"
    ):
        refuse_boxes(model, "export")
    with pytest.raises(ModelError, match="parity is for networks that give one array"):
        compare("retinanet_resnet18_fpn")
    with pytest.raises(ModelError, match="fold is for networks that give one array"):
        fold(model, {})
