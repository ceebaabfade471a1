"""`rn.detect`: from images as they are to objects in their pixels, beside torchvision's whole networks in float64."""

import jax
import numpy as np
import pytest
import torch

import resnet_jax as rn
from resnet_jax.errors import DataError, ModelError
from resnet_jax.run.detect import _program

from .oracle import images_of, pair, tensors_of, without_operators

# Not `compile_quickly`: convolutions in float64 take ten times as long with it.
SHAPES = (101, 133), (77, 61)


@pytest.fixture(scope="module", autouse=True)
def without(torchvision):
    with pytest.MonkeyPatch.context() as patch, jax.enable_x64(True):
        without_operators(patch)
        yield


@pytest.fixture(scope="module")
def retina(without):
    """torchvision's network, ours, and its variables."""
    return pair("retinanet_resnet50_fpn", seed=3)


def agree(module, model, variables, images):
    with torch.no_grad():
        theirs = module(tensors_of(images))
    for one, other in zip(rn.detect(model, variables, images), theirs, strict=True):
        assert len(other["boxes"]) > 40
        np.testing.assert_array_equal(one["labels"], other["labels"])
        np.testing.assert_allclose(one["boxes"], other["boxes"], rtol=0, atol=1e-9)
        np.testing.assert_allclose(one["scores"], other["scores"], rtol=0, atol=1e-12)
        assert ("masks" in one) == ("masks" in other)
        if "masks" in one:
            np.testing.assert_allclose(one["masks"], other["masks"][:, 0], rtol=0, atol=1e-10)


def test_a_batch_of_two_sizes_is_torchvisions(retina):
    agree(*retina, images_of(2, *SHAPES))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2", "fcos_resnet50_fpn"])
def test_so_are_the_others_with_their_masks(name):
    agree(*pair(name, seed=3), images_of(2, *SHAPES))


def test_a_canvas_is_compiled_once_and_holds_every_image(retina):
    _, model, variables = retina
    rn.detect(model, variables, images_of(2, *SHAPES))
    before = _program(model)._cache_size()
    shapes = (*SHAPES, (50, 50))
    found = rn.detect(model, variables, images_of(4, *shapes), canvas=(96, 96), batch_size=2)
    rn.detect(model, variables, images_of(5, (200, 230), (44, 55)), canvas=(96, 96))
    assert _program(model)._cache_size() == before
    for one, (height, width) in zip(found, shapes, strict=True):
        assert len(one["boxes"])
        assert (one["boxes"] >= 0).all()
        assert (one["boxes"] <= np.array([width, height] * 2) * (1 + 1e-6)).all()


def test_what_cannot_be_seen_is_refused(retina):
    _, model, variables = retina
    image = np.zeros((40, 50, 3), np.uint8)
    with pytest.raises(ModelError, match=r"ResNet is none; choose one of list_models\(task='detect'\)"):
        rn.detect(rn.create_model("resnet18"), {}, [image])
    text = r"images\[1\] is float64 of shape \(40, 50, 3\); detect takes a list of uint8 images \(H, W, 3\)"
    with pytest.raises(DataError, match=text):
        rn.detect(model, variables, [image, image / 255])
    text = r"canvas = \(64, 96\) must .* multiple of 32 .* the largest has 72 x 90 pixels .*; leave canvas out"
    with pytest.raises(DataError, match=text):
        rn.detect(model, variables, [image], canvas=(64, 96))
    assert rn.detect(model, variables, []) == []
