"""The losses of detectors and their gradients, against torchvision's own functions in float64."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from resnet_jax.tasks.detect.losses import Objects
from resnet_jax.tasks.detect.mask_targets import align_masks
from resnet_jax.tasks.detect.matching import sample
from resnet_jax.tasks.detect.one_stage import fcos_losses, retinanet_losses, yolof_losses
from resnet_jax.tasks.detect.roi_heads import Rois, box_losses, draw_rois, mask_losses, rois_with_masks
from resnet_jax.tasks.detect.rpn import rpn_losses

from .sampling import Drawn

SIDE, CLASSES, PLACES = 64, 6, 5
MAPS = ((8, 8), (4, 4), (2, 2))
STRIDES = (8, 16, 32)
TWO_STAGE = SimpleNamespace(
    rpn_bg_iou_thresh=0.3,
    rpn_fg_iou_thresh=0.7,
    rpn_batch_size_per_image=24,
    rpn_positive_fraction=0.5,
    box_bg_iou_thresh=0.5,
    box_fg_iou_thresh=0.5,
    box_batch_size_per_image=16,
    box_positive_fraction=0.25,
    bbox_reg_weights=(10.0, 10.0, 5.0, 5.0),
)


@pytest.fixture(autouse=True)
def _float64(compile_quickly):
    with jax.enable_x64(True):
        yield


def objects_of(rng, numbers=(3, 5, 0)):
    """Boxes of three images, the last without any. What the empty places hold is nonsense."""
    boxes = rng.uniform(-9, 99, (len(numbers), PLACES, 4))
    classes = np.full((len(numbers), PLACES), -1)
    for image, number in enumerate(numbers):
        corner = rng.uniform(0, 40, (number, 2))
        boxes[image, :number] = np.concatenate([corner, corner + rng.uniform(4, 24, (number, 2))], 1)
        classes[image, :number] = rng.integers(1, CLASSES, number)
    return Objects(jnp.asarray(boxes), jnp.asarray(classes))


def targets_of(objects):
    real = np.asarray(objects.real)
    return [
        {"boxes": torch.tensor(np.asarray(boxes)[own]), "labels": torch.tensor(np.asarray(classes)[own])}
        for boxes, classes, own in zip(*objects, real, strict=True)
    ]


def anchors_of(per_place, size=1.5):
    """Squares and oblongs at each place, larger with the stride."""
    every = []
    for (height, width), stride in zip(MAPS, STRIDES, strict=True):
        y, x = np.meshgrid(np.arange(height) * stride, np.arange(width) * stride, indexing="ij")
        for place in np.stack([x, y], -1).reshape(-1, 2):
            for number in range(per_place):
                half = stride * size / 2 * np.array([1 + 0.3 * number, 1.0])
                every.append(np.concatenate([place - half, place + half]))
    return np.array(every)


def levels_of(rng, size, scale=1.0):
    return tuple(jnp.asarray(rng.normal(size=(3, *one, size)) * scale) for one in MAPS)


def flat_torch(levels, size):
    flat = np.concatenate([np.asarray(one).reshape(3, -1, size) for one in levels], axis=1)
    return torch.tensor(flat, requires_grad=True)


def total(losses):
    """Of the whole batch, as the step divides."""
    return {name: jnp.sum(loss) / jnp.maximum(jnp.sum(count), 1) for name, (loss, count) in losses.items()}


def check(of, out, expected, leaves, sizes):
    """The losses and, for random weights of them, the gradients of what the network gives."""
    weights = dict(zip(expected, (0.7, 1.9, 1.3), strict=False))
    ours = jax.jit(lambda out: total(of(out)))(out)
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(ours[name], value.item(), rtol=1e-11, err_msg=name)
    grads = jax.jit(jax.grad(lambda out: sum(weights[name] * value for name, value in total(of(out)).items())))(out)
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
    ours = lambda pair: total(box_losses(TWO_STAGE, *pair, rois, objects))
    theirs = [torch.tensor(x, requires_grad=True) for x in (logits, deltas.reshape(count, -1))]
    ordered = lambda values: [one[own] for one, own in zip(values, rows, strict=True)]
    losses = fastrcnn_loss(theirs[0][taken], theirs[1][taken], ordered(labels), ordered(wanted))
    pair = (jnp.asarray(logits), jnp.asarray(deltas))
    values, grads = jax.jit(ours)(pair), jax.jit(jax.grad(lambda pair: sum(ours(pair).values())))(pair)
    for name, value in zip(("loss_classifier", "loss_box_reg"), losses, strict=True):
        np.testing.assert_allclose(values[name], value.item(), rtol=1e-11)
    sum(losses).backward()
    for grad, leaf in zip(grads, theirs, strict=True):
        np.testing.assert_allclose(np.asarray(grad).reshape(count, -1), leaf.grad, rtol=1e-9, atol=1e-13)
    assert losses[1] > 0


def windows_of(masks, boxes, side):
    """The bitmap of the window of each object, as a row of a batch has it."""
    bitmaps = np.zeros((len(masks), side, side), np.uint8)
    for bitmap, mask, (left, top, right, bottom) in zip(bitmaps, masks, boxes, strict=True):
        window = mask[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))]
        bitmap[: window.shape[0], : window.shape[1]] = window
    return bitmaps


@pytest.fixture(scope="module")
def plain(torchvision):
    """torchvision's RoI align in plain PyTorch, which it compiles otherwise."""
    import sys

    return sys.modules["torchvision.ops.roi_align"]._roi_align.__wrapped__


def masks_and_rois(rng, count, height, width):
    """Masks that lie within their boxes, some at the border of the image, and proposals that reach beyond the boxes."""
    corner = rng.uniform(0, (width - 20, height - 20), (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(4, 20, (count, 2))], 1)
    boxes[0], boxes[1] = (0, 0, 9.5, 7), (width - 12.25, height - 9, width, height)
    y, x = np.mgrid[:height, :width]
    inside = (
        (x >= np.floor(boxes[:, 0, None, None]))
        & (x < np.ceil(boxes[:, 2, None, None]))
        & (y >= np.floor(boxes[:, 1, None, None]))
        & (y < np.ceil(boxes[:, 3, None, None]))
    )
    masks = (rng.random((count, height, width)) < 0.6) & inside
    rois = boxes + rng.uniform(-5, 5, (count, 4))
    rois[2] = boxes[2, [0, 1, 0, 1]] + 1e-3  # next to no area
    rois = np.stack([rois[:, 0].clip(0), rois[:, 1].clip(0), rois[:, 2].clip(0, width), rois[:, 3].clip(0, height)], 1)
    rois[:, 2:] = np.maximum(rois[:, 2:], rois[:, :2])
    return masks, boxes, rois


def test_masks_within_windows_are_those_of_whole_images(plain):
    rng = np.random.default_rng(4)
    height, width, count = 37, 53, 60
    masks, boxes, rois = masks_and_rois(rng, count, height, width)
    sizes = jnp.broadcast_to(jnp.asarray([height, width]), (count, 2))
    align = jax.jit(partial(align_masks, grid=7, most_samples=5))
    ours = align(windows_of(masks, boxes, 24), jnp.asarray(boxes), jnp.asarray(rois), sizes)
    both = torch.tensor(np.c_[np.arange(count), rois])
    expected = plain(torch.tensor(masks[:, None] * 1.0), both, 1.0, 7, 7, -1, False)[:, 0]
    np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)
    assert 0.1 < np.mean(ours) < 0.6


def test_masks_of_windows_that_are_scaled(plain):
    """A mask that is the same everywhere stays it, also at the border of the image; one that changes is near."""
    height = width = 64
    boxes = jnp.asarray([[0.0, 0, 64, 64], [8.0, 8, 56, 56]])
    sizes = jnp.full((2, 2), 64)
    ones = np.ones((2, 16, 16), np.uint8)
    rois = jnp.asarray([[0.0, 0, 64, 64], [14.0, 14, 50, 50]])
    align = jax.jit(align_masks, static_argnums=(4, 5))
    whole = align(ones, boxes, rois, sizes, 7, 10)
    np.testing.assert_allclose(whole, 1, rtol=1e-12)
    y, x = np.mgrid[:height, :width]
    mask = ((x - 32) ** 2 + (y - 32) ** 2 < 24**2).astype(np.float64)
    small = mask[8:56, 8:56].reshape(16, 3, 16, 3).mean((1, 3))
    ours = align(jnp.asarray(small)[None], boxes[1:], boxes[1:], sizes[1:], 14, 4)
    both = torch.tensor(np.c_[[0.0], np.asarray(boxes[1:])])
    expected = plain(torch.tensor(mask)[None, None], both, 1.0, 14, 14, -1, False)[:, 0].numpy()
    assert np.abs(ours - expected).mean() < 0.03


def test_masks_of_proposals(plain, monkeypatch):
    from torchvision.models.detection import roi_heads

    monkeypatch.setattr(
        roi_heads, "roi_align", lambda masks, rois, size, scale: plain(masks, rois, scale, *size, -1, False)
    )
    rng = np.random.default_rng(5)
    height, width = 37, 53
    objects, positive = objects_of(rng), np.array([3, 4, 0])
    masks, boxes, rois = masks_and_rois(rng, 3 * PLACES, height, width)
    objects = objects._replace(boxes=jnp.asarray(boxes.reshape(3, PLACES, 4)))
    own = np.tile(np.arange(PLACES), (3, 4))[:, :16] % 3
    number = np.arange(16)[None] < positive[:, None]
    near = rois.reshape(3, PLACES, 4)[np.arange(3)[:, None], own]
    labels = np.where(number, np.asarray(objects.classes)[np.arange(3)[:, None], own], 0)
    drawn = Rois(*map(jnp.asarray, (near, labels, own, np.ones((3, 16), bool))))
    kept = jax.jit(partial(rois_with_masks, TWO_STAGE))(drawn)
    assert kept.labels.shape == (3, 4)
    np.testing.assert_array_equal(kept.real, number[:, :4])
    np.testing.assert_array_equal(kept.boxes[0, 3], near[0, 0], "repeats the first")

    logits = rng.normal(size=(12, 5, 5, CLASSES))
    bitmaps = windows_of(masks, boxes, 24).reshape(3, PLACES, 24, 24)[np.arange(3)[:, None], kept.objects]
    of_objects = jnp.take_along_axis(objects.boxes, kept.objects[..., None], axis=1)
    sizes = jnp.broadcast_to(jnp.asarray([height, width]), (12, 2))
    one = lambda x: x.reshape(-1, *x.shape[2:])
    wanted = align_masks(one(bitmaps), one(of_objects), one(kept.boxes), sizes, 5, 8)
    ours = lambda logits: total(mask_losses(logits, wanted, kept))["loss_mask"]

    theirs = torch.tensor(np.moveaxis(logits, -1, 1), requires_grad=True)
    rows = [slice(0, number) for number in positive]
    expected = roi_heads.maskrcnn_loss(
        theirs[torch.tensor(np.array(kept.real).reshape(-1))],
        [torch.tensor(near[i, rows[i]]) for i in range(3)],
        [torch.tensor(one) for one in masks.reshape(3, PLACES, height, width)],
        [torch.tensor(one) for one in np.asarray(objects.classes)],
        [torch.tensor(own[i, rows[i]]) for i in range(3)],
    )
    np.testing.assert_allclose(ours(jnp.asarray(logits)), expected.item(), rtol=1e-11)
    expected.backward()
    grads = jax.jit(jax.grad(ours))(jnp.asarray(logits))
    np.testing.assert_allclose(np.moveaxis(grads, -1, 1), theirs.grad, rtol=1e-9, atol=1e-13)


def uniform_reference(said, anchors, boxes, classes, scores, options):
    """YOLOF's loss of one image, written from the paper and the authors' code: sums, and the number of anchors."""
    area = lambda box: (box[2] - box[0]) * (box[3] - box[1])

    def iou(a, b):
        shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
        return shared / (area(a) + area(b) - shared)

    def giou(a, b):
        shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
        union = area(a) + area(b) - shared
        hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
        return 1 - shared / (union + 1e-7) + (hull - union) / (hull + 1e-7)

    def nearest(candidates, box):
        middle = lambda b: np.array([(b[0] + b[2]) / 2, (b[1] + b[3]) / 2, b[2] - b[0], b[3] - b[1]])
        return np.argsort([np.abs(middle(one) - middle(box)).sum() for one in candidates])[: options.match_times]

    wanted, boxes_loss = np.zeros(len(anchors), int), 0.0
    for place, one in enumerate(said):
        if any(iou(one, box) > options.neg_ignore_thresh for box in boxes):
            wanted[place] = -1
    near = [[nearest(candidates, box) for box in boxes] for candidates in (said, anchors)]
    for time in range(options.match_times):
        for of in near:
            for number, box in enumerate(boxes):
                place = of[number][time]
                if iou(anchors[place], box) < options.pos_ignore_thresh:
                    wanted[place] = -1
                else:
                    wanted[place] = classes[number]
                    boxes_loss += giou(said[place], box)
    hits = 0.0
    for place, label in enumerate(wanted):
        for k in range(CLASSES) if label >= 0 else ():
            p = 1 / (1 + np.exp(-scores[place, k]))
            hits += -0.25 * (1 - p) ** 2 * np.log(p) if k == label > 0 else -0.75 * p**2 * np.log(1 - p)
    return hits, boxes_loss, np.sum(wanted > 0), wanted


def test_uniform_matching(torchvision):
    """Against a plain reference: torchvision has no YOLOF."""
    rng = np.random.default_rng(6)
    objects, anchors = objects_of(rng), anchors_of(3)
    model = SimpleNamespace(
        num_classes=CLASSES, center_clamp=32.0, match_times=4, neg_ignore_thresh=0.5, pos_ignore_thresh=0.15
    )
    out = {"scores": levels_of(rng, 3 * CLASSES), "deltas": levels_of(rng, 12, 0.3)}
    ours = jax.jit(lambda out: yolof_losses(model, out, jnp.asarray(anchors), objects))(out)
    flat = lambda name, size: np.concatenate([np.asarray(x).reshape(3, -1, size) for x in out[name]], axis=1)
    scores, deltas = flat("scores", CLASSES), flat("deltas", 4)
    side = anchors[:, 2:] - anchors[:, :2]
    seen = set()
    for image in range(3):
        middle = (anchors[:, :2] + anchors[:, 2:]) / 2 + np.clip(deltas[image, :, :2] * side, -32, 32)
        half = np.exp(np.minimum(deltas[image, :, 2:], np.log(1000 / 16))) * side / 2
        real = np.asarray(objects.real[image])
        boxes, classes = np.asarray(objects.boxes[image])[real], np.asarray(objects.classes[image])[real]
        *expected, wanted = uniform_reference(
            np.concatenate([middle - half, middle + half], 1), anchors, boxes, classes, scores[image], model
        )
        hits, apart = ours["classification"], ours["bbox_regression"]
        np.testing.assert_allclose([hits[0][image], apart[0][image], hits[1][image]], expected, rtol=1e-10)
        seen |= set(wanted.tolist())
    assert {-1, 0} < seen, "some are left out, some are background, some find an object"


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
