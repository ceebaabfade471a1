"""Boxes, anchors, matching and sampling against torchvision's own, in float64, on thousands of random boxes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from resnet_jax.tasks.detect import anchors, boxes, matching

pytestmark = pytest.mark.usefixtures("compile_quickly")


iou, match = jax.jit(boxes.iou), jax.jit(matching.match, static_argnames="keep_best")
encode, decode = jax.jit(boxes.encode, static_argnums=2), jax.jit(boxes.decode, static_argnums=2)
sample = jax.jit(matching.sample, static_argnums=(3, 4))


def random_boxes(rng, *shape, side=200.0):
    corner, size = rng.uniform(-20, side, (*shape, 2)), rng.uniform(0, side / 2, (*shape, 2))
    return np.concatenate([corner, corner + size], -1)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_areas_and_overlaps(torchvision, rng, x64):
    one, other = random_boxes(rng, 300), random_boxes(rng, 200)
    one[0], other[0] = [5, 5, 5, 9], [5, 5, 5, 9]  # both without area: 0 / 0
    one[1] = other[1]
    expected = torchvision.ops.box_iou(torch.tensor(one), torch.tensor(other))
    np.testing.assert_allclose(iou(one, other), expected, rtol=1e-13)
    assert np.isnan(expected[0, 0])
    np.testing.assert_allclose(boxes.area(jnp.asarray(one)), torchvision.ops.box_area(torch.tensor(one)))


def test_the_generalised_overlap_and_its_gradient(torchvision, rng, x64):
    one, other = random_boxes(rng, 1000), random_boxes(rng, 1000)
    summed = lambda b: (jnp.sum(losses := boxes.giou_loss(b, jnp.asarray(other))), losses)
    grads, ours = jax.jit(jax.grad(summed, has_aux=True))(jnp.asarray(one))
    theirs = torch.tensor(one, requires_grad=True)
    expected = torchvision.ops.generalized_box_iou_loss(theirs, torch.tensor(other))
    np.testing.assert_allclose(ours, expected.detach(), rtol=1e-12, atol=1e-12)
    expected.sum().backward()
    np.testing.assert_allclose(grads, theirs.grad, rtol=1e-9, atol=1e-12)


def test_boxes_are_cut_off_at_the_border(torchvision, rng, x64):
    found = random_boxes(rng, 500)
    expected = torchvision.ops.clip_boxes_to_image(torch.tensor(found), (120, 90))
    np.testing.assert_array_equal(boxes.clip(jnp.asarray(found), 120, 90), expected)


def test_distances_to_sides_are_coded_and_decoded(torchvision, rng, x64):
    coder = torchvision.models.detection._utils.BoxLinearCoder()
    found, references = (random_boxes(rng, 2000) + np.array([0, 0, 3, 3]) for _ in range(2))
    expected = coder.encode(torch.tensor(references), torch.tensor(found))
    ours = boxes.encode_sides(jnp.asarray(found), jnp.asarray(references))
    np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)
    decoded = coder.decode(expected, torch.tensor(references))
    np.testing.assert_allclose(boxes.decode_sides(ours, jnp.asarray(references)), decoded, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_boxes_are_coded_and_decoded(torchvision, rng, x64, weights):
    coder = torchvision.models.detection._utils.BoxCoder(weights)
    found, references = (random_boxes(rng, 2000) + np.array([0, 0, 3, 3]) for _ in range(2))
    expected = coder.encode_single(torch.tensor(found), torch.tensor(references))
    ours = encode(found, references, weights)
    np.testing.assert_allclose(ours, expected, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(decode(ours, references, weights), found, rtol=1e-11, atol=1e-10)
    deltas = rng.normal(size=(2000, 4)) * 5  # some are wider than allowed
    expected = coder.decode_single(torch.tensor(deltas), torch.tensor(references))
    np.testing.assert_allclose(decode(deltas, references, weights), expected, rtol=1e-12)


@pytest.mark.parametrize("canvas", [(128, 160), (352, 1344)])
def test_anchors(torchvision, canvas):
    sizes = tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512))
    ratios = (0.5, 1.0, 2.0)
    generator = torchvision.models.detection.anchor_utils.AnchorGenerator(sizes, (ratios,) * 5)
    maps = [(-(-canvas[0] // stride), -(-canvas[1] // stride)) for stride in (8, 16, 32, 64, 128)]
    images = torchvision.models.detection.image_list.ImageList(torch.zeros(1, 3, *canvas), [canvas])
    expected = generator(images, [torch.zeros(1, 1, *size) for size in maps])[0]
    ours = [anchors.on_map(anchors.shapes(own, ratios), size, canvas) for own, size in zip(sizes, maps, strict=True)]
    np.testing.assert_array_equal(np.concatenate(ours), expected)


@pytest.mark.parametrize(("low", "high", "keep_best"), [(0.3, 0.7, True), (0.5, 0.5, False), (0.4, 0.5, True)])
def test_boxes_are_matched_with_objects(torchvision, rng, x64, low, high, keep_best):
    matcher = torchvision.models.detection._utils.Matcher(high, low, allow_low_quality_matches=keep_best)
    for count in (1, 7):
        # Few different overlaps, so that there are ties, and overlaps that are exactly a threshold.
        overlaps = rng.integers(0, 11, (count, 500)) / 10
        expected = matcher(torch.tensor(overlaps))
        padded = np.concatenate([overlaps, rng.random((3, 500))])
        real = np.arange(count + 3) < count
        ours = match(padded, real, low, high, keep_best=keep_best)
        np.testing.assert_array_equal(ours, expected)


def test_without_objects_all_is_background(rng):
    ours = match(rng.random((4, 50)), np.zeros(4, bool), 0.3, 0.7, keep_best=True)
    assert (np.asarray(ours) == matching.NOTHING).all()


@pytest.mark.parametrize(("positives", "negatives"), [(300, 500), (10, 500), (0, 500), (300, 20), (5, 5), (0, 0)])
def test_samples_are_balanced(rng, positives, negatives):
    order = rng.permutation(1000)
    positive, negative = (
        np.isin(np.arange(1000), order[:positives]),
        np.isin(np.arange(1000), order[-negatives or 1000 :]),
    )
    drawn, others = sample(jax.random.key(1), positive, negative, 256, 0.5)
    assert int(drawn.sum()) == min(positives, 128)
    assert int(others.sum()) == min(negatives, 256 - int(drawn.sum()))
    assert not (np.asarray(drawn) & ~positive).any()
    assert not (np.asarray(others) & ~negative).any()


def test_each_box_is_drawn_equally_often(rng):
    positive = jnp.arange(40) < 20
    draw = jax.jit(jax.vmap(lambda key: matching.sample(key, positive, ~positive, 10, 0.5)))
    drawn, others = draw(jax.random.split(jax.random.key(0), 4000))
    np.testing.assert_allclose(drawn.mean(0), np.where(np.arange(40) < 20, 0.25, 0), atol=0.03)
    np.testing.assert_allclose(others.mean(0), np.where(np.arange(40) < 20, 0, 0.25), atol=0.03)
