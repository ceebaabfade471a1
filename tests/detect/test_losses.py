"""The losses of detectors and their gradients, against torchvision's own functions in float64."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from resnet_jax.tasks.detect.losses import Objects
from resnet_jax.tasks.detect.matching import sample
from resnet_jax.tasks.detect.one_stage import fcos_losses, retinanet_losses, yolof_losses
from resnet_jax.tasks.detect.roi_heads import box_losses, draw_rois
from resnet_jax.tasks.detect.rpn import rpn_losses

from .loss_cases import (
    CLASSES,
    MAPS,
    PLACES,
    TWO_STAGE,
    anchors_of,
    flat_torch,
    levels_of,
    objects_of,
    targets_of,
    total,
)
from .sampling import Drawn


@pytest.fixture(autouse=True)
def _float64(compile_quickly):
    with jax.enable_x64(True):
        yield


def check(of, out, expected, leaves, sizes):
    """The losses and, for random weights of them, the gradients of what the network gives."""
    weights = dict(zip(expected, (0.7, 1.9, 1.3), strict=False))

    def weighted(out):
        losses = total(of(out))
        return sum(weights[name] * value for name, value in losses.items()), losses

    grads, ours = jax.jit(jax.grad(weighted, has_aux=True))(out)
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(ours[name], value.item(), rtol=1e-11, err_msg=name)
    sum(weights[name] * value for name, value in expected.items()).backward()
    for name, leaf in leaves.items():
        flat = np.concatenate([np.asarray(one).reshape(3, -1, sizes[name]) for one in grads[name]], axis=1)
        assert np.any(flat)
        np.testing.assert_allclose(flat, leaf.grad.reshape(flat.shape), rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("box_loss", ["l1", "giou"])
def test_retinanet(torchvision, box_loss):
    from torchvision.models.detection._utils import Matcher
    from torchvision.models.detection.retinanet import RetinaNetHead

    rng = np.random.default_rng(0)
    objects, anchors = objects_of(rng), anchors_of(2)
    out = {"scores": levels_of(rng, 2 * CLASSES), "deltas": levels_of(rng, 8, 0.3)}
    head = RetinaNetHead(8, 2, CLASSES)
    head.regression_head._loss_type = box_loss
    leaves = {"scores": flat_torch(out["scores"], CLASSES), "deltas": flat_torch(out["deltas"], 4)}
    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    found = []
    for target in targets_of(objects):
        overlaps = torchvision.ops.box_iou(target["boxes"], torch.tensor(anchors))
        found.append(matcher(overlaps) if len(overlaps) else torch.full((len(anchors),), -1))
    assert {-1, -2, 0} <= set(torch.cat(found).tolist())
    named = {"cls_logits": leaves["scores"], "bbox_regression": leaves["deltas"]}
    expected = head.compute_loss(targets_of(objects), named, [torch.tensor(anchors)] * 3, found)
    model = SimpleNamespace(num_classes=CLASSES, bg_iou_thresh=0.4, fg_iou_thresh=0.5, box_loss=box_loss)
    of = partial(retinanet_losses, model, anchors=jnp.asarray(anchors), objects=objects)
    check(lambda out: of(out), out, expected, leaves, {"scores": CLASSES, "deltas": 4})


@pytest.mark.parametrize("numbers", [(3, 5, 0), (0, 0, 0)])
def test_fcos(torchvision, numbers):
    from torchvision.models.detection.fcos import FCOS, FCOSHead

    rng = np.random.default_rng(1)
    objects, anchors = objects_of(rng, numbers), anchors_of(1, size=1.0)
    out = {"scores": levels_of(rng, CLASSES), "deltas": levels_of(rng, 4), "centred": levels_of(rng, 1)}
    out["deltas"] = tuple(map(jnp.abs, out["deltas"]))
    sizes = {"scores": CLASSES, "deltas": 4, "centred": 1}
    leaves = {name: flat_torch(out[name], size) for name, size in sizes.items()}
    names = {"scores": "cls_logits", "deltas": "bbox_regression", "centred": "bbox_ctrness"}
    net = SimpleNamespace(center_sampling_radius=1.5, head=FCOSHead(32, 1, CLASSES))
    levels = [height * width for height, width in MAPS]
    named = {names[name]: leaf for name, leaf in leaves.items()}
    expected = FCOS.compute_loss(net, targets_of(objects), named, [torch.tensor(anchors)] * 3, levels)
    model = SimpleNamespace(num_classes=CLASSES, center_sampling_radius=1.5)
    of = lambda out: fcos_losses(model, out, jnp.asarray(anchors), levels, objects)
    if any(numbers):
        assert expected["bbox_regression"] > 0
        check(of, out, expected, leaves, sizes)
    else:  # divided by 1, not by 0
        ours = jax.jit(lambda out: total(of(out)))(out)
        np.testing.assert_allclose(ours["classification"], expected["classification"].item(), rtol=1e-11)
        assert ours["bbox_regression"] == ours["bbox_ctrness"] == 0


def test_proposals(torchvision):
    from torchvision.models.detection.rpn import RegionProposalNetwork

    rng = np.random.default_rng(2)
    objects, anchors = objects_of(rng), anchors_of(3)
    keys = jax.random.split(jax.random.key(0), 3)
    out = {"scores": levels_of(rng, 3), "deltas": levels_of(rng, 12, 0.3)}
    rpn = RegionProposalNetwork(None, None, 0.7, 0.3, 24, 0.5, {}, {}, 0.7)
    rpn.fg_bg_sampler = Drawn(keys, len(anchors), 24, 0.5)
    labels, boxes = rpn.assign_targets_to_anchors([torch.tensor(anchors)] * 3, targets_of(objects))
    wanted = rpn.box_coder.encode([box.double() for box in boxes], [torch.tensor(anchors)] * 3)
    leaves = {"scores": flat_torch(out["scores"], 1), "deltas": flat_torch(out["deltas"], 4)}
    labels = [label.double() for label in labels]
    losses = rpn.compute_loss(leaves["scores"], leaves["deltas"].reshape(-1, 4), labels, wanted)
    expected = dict(zip(("loss_objectness", "loss_rpn_box_reg"), losses, strict=True))
    of = lambda out: rpn_losses(TWO_STAGE, out, jnp.asarray(anchors), objects, keys)
    check(of, out, expected, leaves, {"scores": 1, "deltas": 4})


@pytest.mark.parametrize("proposed", [20, 3])
def test_classes_and_boxes_of_proposals(torchvision, proposed):
    """Fewer proposals than are to be drawn, too."""
    from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss

    rng = np.random.default_rng(3)
    objects, keys = objects_of(rng), jax.random.split(jax.random.key(1), 3)
    corner = rng.uniform(0, 40, (3, 20, 2))
    proposals = np.concatenate([corner, corner + rng.uniform(4, 24, (3, 20, 2))], 2)
    proposals[:, :2] = objects.boxes[:, :2] + rng.uniform(-1, 1, (3, 2, 4))
    real = np.arange(20)[None] < np.array([proposed, proposed - 1, proposed])[:, None]
    proposals[~real] = 0
    heads = RoIHeads(None, None, None, 0.5, 0.5, 16, 0.25, None, 0.05, 0.5, 100)
    there = [np.flatnonzero(np.r_[a, b]) for a, b in zip(real, np.asarray(objects.real), strict=True)]
    heads.fg_bg_sampler = Drawn(keys, 20 + PLACES, 16, 0.25, lambda image, _: there[image])
    given = [torch.tensor(boxes[own]) for boxes, own in zip(proposals, real, strict=True)]
    boxes, _, labels, wanted = heads.select_training_samples(given, targets_of(objects))

    rois = jax.jit(partial(draw_rois, TWO_STAGE))(jnp.asarray(proposals), jnp.asarray(real), objects, keys)
    assert [len(one) for one in boxes] == np.asarray(rois.real).sum(1).tolist()
    assert np.isfinite(rois.boxes).all()
    rows = []  # theirs in our order
    for image in range(3):
        ours = np.asarray(rois.boxes[image])[np.asarray(rois.real[image])]
        rows.append(np.abs(ours[:, None] - boxes[image].numpy()[None]).sum(2).argmin(1))
        np.testing.assert_array_equal(ours, boxes[image].numpy()[rows[-1]])
        kept = np.asarray(rois.labels[image])[np.asarray(rois.real[image])]
        np.testing.assert_array_equal(kept, labels[image].numpy()[rows[-1]])
        assert (np.diff((kept > 0).astype(int)) <= 0).all(), "those that are to find an object come first"
    if proposed == 20:
        assert sum(len(one) for one in boxes) == 48
        assert 0 < np.sum(rois.labels > 0) < 12

    count = rois.labels.size
    logits, deltas = rng.normal(size=(count, CLASSES)), rng.normal(size=(count, CLASSES, 4))
    taken = torch.tensor(np.asarray(rois.real).reshape(-1).copy())

    def ours(pair):
        losses = total(box_losses(TWO_STAGE, *pair, rois, objects))
        return sum(losses.values()), losses

    theirs = [torch.tensor(x, requires_grad=True) for x in (logits, deltas.reshape(count, -1))]
    ordered = lambda values: [one[own] for one, own in zip(values, rows, strict=True)]
    losses = fastrcnn_loss(theirs[0][taken], theirs[1][taken], ordered(labels), ordered(wanted))
    pair = (jnp.asarray(logits), jnp.asarray(deltas))
    grads, values = jax.jit(jax.grad(ours, has_aux=True))(pair)
    for name, value in zip(("loss_classifier", "loss_box_reg"), losses, strict=True):
        np.testing.assert_allclose(values[name], value.item(), rtol=1e-11)
    sum(losses).backward()
    for grad, leaf in zip(grads, theirs, strict=True):
        np.testing.assert_allclose(np.asarray(grad).reshape(count, -1), leaf.grad, rtol=1e-9, atol=1e-13)
    assert losses[1] > 0


def test_padding_changes_nothing_and_is_never_nan(torchvision):
    """Places without an object may hold anything, and there may be any number of them."""
    rng = np.random.default_rng(7)
    objects, anchors = objects_of(rng), jnp.asarray(anchors_of(1))
    keys = jax.random.split(jax.random.key(2), 3)
    out = {"scores": levels_of(rng, CLASSES), "deltas": levels_of(rng, 4), "centred": levels_of(rng, 1)}
    rpn = {"scores": out["centred"], "deltas": out["deltas"]}
    levels = [height * width for height, width in MAPS]
    model = SimpleNamespace(
        **vars(TWO_STAGE), num_classes=CLASSES, bg_iou_thresh=0.4, fg_iou_thresh=0.5, box_loss="l1",
        center_sampling_radius=1.5, center_clamp=32.0, match_times=4, neg_ignore_thresh=0.5, pos_ignore_thresh=0.15,
    )  # fmt: skip

    def everything(rpn, out, objects):
        return {
            "retinanet": retinanet_losses(model, out, anchors, objects),
            "fcos": fcos_losses(model, out, anchors, levels, objects),
            "yolof": yolof_losses(model, out, anchors, objects),
            "rpn": rpn_losses(model, rpn, anchors, objects, keys),
        }

    def summed(rpn, out, objects):
        losses = everything(rpn, out, objects)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(losses)), losses

    program = jax.jit(jax.grad(summed, argnums=(0, 1), has_aux=True))
    found = []
    for nonsense in (np.zeros((3, 1, 4)), np.full((3, 1, 4), 7.0), np.tile([[0.0, 0.0, 60.0, 60.0]], (3, 1, 1))):
        boxes = jnp.concatenate([objects.boxes, nonsense], 1)
        classes = jnp.concatenate([objects.classes, np.full((3, 1), -1)], 1)
        found.append(program(rpn, out, Objects(boxes, classes)))
    for one in found:
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(one))
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-15), one, found[0])


def test_no_box_is_drawn_from_nothing():
    """Neither proposals nor objects: nothing counts, and nothing is nan."""
    objects = Objects(jnp.zeros((1, 2, 4)), jnp.full((1, 2), -1))
    keys = jax.random.split(jax.random.key(0), 1)

    @jax.jit
    def found(proposals):
        rois = draw_rois(TWO_STAGE, proposals, jnp.zeros((1, 4), bool), objects, keys)
        return rois, box_losses(TWO_STAGE, jnp.ones((6, CLASSES)), jnp.ones((6, CLASSES, 4)), rois, objects)

    rois, losses = found(jnp.zeros((1, 4, 4)))
    assert not rois.real.any()
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(losses))


def test_the_draw_is_of_the_image_alone():
    """What an image draws does not depend on its neighbours."""
    key = jax.random.key(3)
    positive, negative = jnp.arange(40) < 9, jnp.arange(40) >= 20
    draw = lambda key: sample(key, positive, negative, 16, 0.25)
    one = jax.jit(draw)(key)
    assert (int(one[0].sum()), int(one[1].sum())) == (4, 12)
    other = jax.jit(jax.vmap(draw))(jnp.stack([jax.random.key(9), key]))
    np.testing.assert_array_equal(other[0][1], one[0])
    assert np.any(other[0][0] != one[0])
