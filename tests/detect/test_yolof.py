"""YOLOF's network against plain PyTorch, written from the paper's section 4 and mmdetection's configuration."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import resnet_jax as rn
from resnet_jax.models import create_model, variable_shapes
from resnet_jax.tasks.detect.boxes import decode
from resnet_jax.tasks.detect.find import make_find

from ..weights.networks import random_variables

F = torch.nn.functional
SMALL = {"stage_sizes": (1, 1), "width": 8, "num_classes": 3, "pyramid_width": 16}
pytestmark = pytest.mark.usefixtures("compile_quickly")


def reference(arrays, c5, anchors, classes):
    """What the encoder and the head say of the backbone's last maps (N, C, H, W)."""

    def conv(x, name, dilation=1):
        weight = arrays[f"{name}.weight"]
        return F.conv2d(
            x, weight, arrays.get(f"{name}.bias"), padding=(weight.shape[-1] // 2) * dilation, dilation=dilation
        )

    def norm(x, name):
        parts = (arrays[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts)

    fpn = "backbone.fpn"
    x = norm(conv(c5, f"{fpn}.lateral_conv"), f"{fpn}.lateral_norm")
    x = norm(conv(x, f"{fpn}.fpn_conv"), f"{fpn}.fpn_norm")
    for i, dilation in enumerate((2, 4, 6, 8)):
        y = F.relu(norm(conv(x, f"{fpn}.blocks.{i}.0"), f"{fpn}.blocks.{i}.1"))
        y = F.relu(norm(conv(y, f"{fpn}.blocks.{i}.2", dilation), f"{fpn}.blocks.{i}.3"))
        x = x + F.relu(norm(conv(y, f"{fpn}.blocks.{i}.4"), f"{fpn}.blocks.{i}.5"))
    towers = []
    for name, convs in (("cls_subnet", 2), ("bbox_subnet", 4)):
        y = x
        for i in range(convs):
            y = F.relu(norm(conv(y, f"head.{name}.{i}.0"), f"head.{name}.{i}.1"))
        towers.append(y)
    classes_of = conv(towers[0], "head.cls_score")
    n, _, h, w = classes_of.shape
    classes_of = classes_of.view(n, anchors, classes, h, w)
    there = conv(towers[1], "head.object_pred").view(n, anchors, 1, h, w)
    scores = classes_of + there - torch.log(1 + torch.exp(classes_of) + torch.exp(there))
    return x, scores.reshape(n, -1, h, w), conv(towers[1], "head.bbox_pred")


def test_parameters_are_the_papers():
    """Table 1 of mmdetection's page and others say 44.16 M, for 80 classes."""
    shapes = variable_shapes(create_model("yolof_resnet50_c5", num_classes=80))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"])) == 44_159_977


@pytest.fixture(scope="module")
def pair(compile_quickly):
    with jax.enable_x64(True):
        model = create_model("yolof_resnet18_c5", **SMALL, param_dtype=jnp.float64)
        yield model, jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), random_variables(model))


def test_the_encoder_and_the_head(pair):
    model, variables = pair
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 45, 70, 3)))
    out = jax.jit(lambda v, x: model.apply(v, x, train=False, features=True))(variables, images)
    arrays = {key: torch.tensor(array) for key, array in rn.to_torchvision(variables).items()}
    c5 = torch.tensor(np.moveaxis(np.asarray(out["stage2"]), -1, 1))
    for ours, theirs in zip((out["maps"], out["scores"], out["deltas"]), reference(arrays, c5, 5, 3), strict=True):
        (level,) = ours
        np.testing.assert_allclose(np.moveaxis(level, -1, 1), theirs, rtol=1e-9, atol=1e-10)


def test_a_middle_moves_by_32_pixels_at_most():
    anchors = jnp.array([[0.0, 0, 100, 50]])
    boxes = decode(jnp.array([[0.9, -0.5, 0, 0]]), anchors, most=32)
    np.testing.assert_allclose(boxes, [[32, -25, 132, 25]])


def test_it_finds_what_its_anchors_say(pair):
    model, variables = pair
    images = jnp.asarray(np.random.default_rng(1).normal(size=(2, 64, 64, 3)))
    found = jax.jit(make_find(model))(variables, images, jnp.array([[64, 64], [50, 40]]))
    assert (found.labels >= 0).sum(1).min() > 5
    assert np.isfinite(found.boxes).all()
    assert (np.asarray(found.boxes[1]) <= np.array([40, 50, 40, 50])).all()  # nothing in the padding
