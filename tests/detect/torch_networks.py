"""torchvision's detectors on a backbone of a few channels, with random weights. Needs torch and torchvision alone.

    python tests/detect/torch_networks.py NETWORK WEIGHTS.npz OUT.npz

As a program it is for a Python with torchvision's compiled operators: it writes what the network finds in two images.
"""

import sys
from functools import partial

import numpy as np
import torch
import torchvision

WIDTH, CLASSES = 48, 5  # of the pyramid
FEW = {"rpn_pre_nms_top_n_test": 100, "rpn_post_nms_top_n_test": 70, "box_detections_per_img": 50}
"""RoI align in plain PyTorch takes a second for 100 boxes."""
SIZES = {"min_size": 72, "max_size": 110}
SHAPES = (101, 133), (77, 61)


def _backbone(levels, extra, norm=None, body_norm=torch.nn.BatchNorm2d):
    resnet = torchvision.models.resnet
    body = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], norm_layer=body_norm)
    body.inplanes = 8
    body.conv1, body.bn1 = torch.nn.Conv2d(3, 8, 7, 2, 3, bias=False), body_norm(8)
    for i, stride in enumerate((1, 2, 2, 2)):
        setattr(body, f"layer{i + 1}", body._make_layer(resnet.BasicBlock, 8 * 2**i, 1, stride))
    extractor = torchvision.models.detection.backbone_utils.BackboneWithFPN
    names = {f"layer{level}": str(i) for i, level in enumerate(levels)}
    return extractor(body, names, [8 * 2 ** (level - 1) for level in levels], WIDTH, extra, norm)


def _two_stage(mask, second, **options):
    detection = torchvision.models.detection
    norm = torch.nn.BatchNorm2d if second else None
    parts = {"rpn_head": detection.rpn.RPNHead(WIDTH, 3, conv_depth=2 if second else 1)}
    if second:
        head = detection.faster_rcnn.FastRCNNConvFCHead((WIDTH, 7, 7), [WIDTH] * 4, [32], norm_layer=norm)
    else:
        head = detection.faster_rcnn.TwoMLPHead(WIDTH * 49, 32)
    parts |= {"box_head": head, "box_predictor": detection.faster_rcnn.FastRCNNPredictor(32, CLASSES)}
    if mask:
        parts["mask_head"] = detection.mask_rcnn.MaskRCNNHeads(WIDTH, [WIDTH] * 4, 1, norm_layer=norm)
        parts["mask_predictor"] = detection.mask_rcnn.MaskRCNNPredictor(WIDTH, WIDTH, CLASSES)
    kind = detection.MaskRCNN if mask else detection.FasterRCNN
    return kind(_backbone([1, 2, 3, 4], None, norm, **options), **SIZES, **FEW, **parts)


def _one_stage(kind, second, **options):
    detection = torchvision.models.detection
    extra = torchvision.ops.feature_pyramid_network.LastLevelP6P7(64 if second else WIDTH, WIDTH)
    backbone = _backbone([2, 3, 4], extra, **options)
    # Of 48 channels. PyTorch refuses one number in each group, as the coarsest maps would have with 32 groups of one.
    groups = partial(torch.nn.GroupNorm, 16)
    if kind == "fcos":
        return detection.FCOS(backbone, CLASSES, head=_fcos_head(detection, groups), **SIZES)
    head = detection.retinanet.RetinaNetHead(WIDTH, 9, CLASSES, norm_layer=groups if second else None)
    if second:
        head.regression_head._loss_type = "giou"
    return detection.RetinaNet(backbone, CLASSES, head=head, **SIZES)


def _fcos_head(detection, norm):
    class Head(detection.fcos.FCOSHead):  # which does not pass a norm on
        def __init__(self):
            torch.nn.Module.__init__(self)
            self.box_coder = detection._utils.BoxLinearCoder(normalize_by_size=True)
            self.classification_head = detection.fcos.FCOSClassificationHead(WIDTH, 1, CLASSES, norm_layer=norm)
            self.regression_head = detection.fcos.FCOSRegressionHead(WIDTH, 1, norm_layer=norm)

    return Head()


def theirs(name, **options):
    """torchvision's network of this kind in float64, with a backbone of 8 channels and a pyramid of 16."""
    begin, second = name.split("_")[0], name.endswith("_v2")
    if begin in ("fasterrcnn", "maskrcnn"):
        module = _two_stage(begin == "maskrcnn", second, **options)
    else:
        module = _one_stage(begin, second, **options)
    return module.double()


LAST = (
    {"rpn.head.cls_logits": 2.0, "rpn.head.bbox_pred": 0.3},
    {"roi_heads.box_predictor.cls_score": 3.0, "roi_heads.box_predictor.bbox_pred": 2.0},
    {"roi_heads.mask_predictor.mask_fcn_logits": 3.0},
    {
        "head.classification_head.cls_logits": 2.0,
        "head.regression_head.bbox_reg": 0.3,
        "head.regression_head.bbox_ctrness": 2.0,
    },
)
"""The layers that speak of objects, and how far their numbers spread. The later ones see what the earlier ones say."""


def randomise(module, seed=0):
    """Every number at random: but of such a size that boxes differ from their anchors by a part of them, and that
    scores are neither 0 nor 1."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda like, low, high: torch.empty_like(like).uniform_(low, high, generator=generator)
    with torch.no_grad():
        for key, tensor in module.state_dict().items():
            if key.endswith("running_var"):
                tensor.copy_(draw(tensor, 0.5, 2.0))
            elif key.endswith("num_batches_tracked"):
                tensor.fill_(7)
            elif tensor.ndim > 1:
                tensor.normal_(0, 1.5 / tensor[0].numel() ** 0.5, generator=generator)
            else:
                tensor.copy_(draw(tensor, 0.5, 1.5) if key.endswith("weight") else draw(tensor, -0.3, 0.3))
        module.eval()
        layers = dict(module.named_modules())
        for together in LAST:
            _spread(module, {layers[name]: spread for name, spread in together.items() if name in layers})
    return module


def _spread(module, layers):
    """Each channel of a layer has the mean 0 and this deviation, over all places; but distances of FCOS's are about
    the side of an anchor."""
    seen = {layer: [] for layer in layers}
    keep = lambda layer, inputs, out: seen[layer].append(out.reshape(*out.shape[:2], -1).movedim(1, 0).flatten(1))
    handles = [layer.register_forward_hook(keep) for layer in layers]
    if layers:
        module(tensors_of(images_of(0, (101, 133))))
    for handle in handles:
        handle.remove()
    for layer, spread in layers.items():
        found = torch.cat(seen[layer], 1)
        scale = spread / found.std(1)
        distances = layer.__dict__.get("out_channels") == 4
        layer.bias.copy_((layer.bias - found.mean(1)) * scale + (1 if distances else 0))
        layer.weight.mul_(scale.reshape(-1, *[1] * (layer.weight.ndim - 1)))


def images_of(seed, *shapes):
    """uint8 images (H, W, 3), smooth enough to be scaled."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]


def tensors_of(images):
    return [torch.tensor(image.transpose(2, 0, 1) / 255) for image in images]


def main(name, weights, out):
    module = theirs(name).eval()
    with np.load(weights) as arrays:
        module.load_state_dict({key: torch.tensor(array) for key, array in arrays.items()}, strict=True)
    with torch.inference_mode():
        found = module(tensors_of(images_of(2, *SHAPES)))
    np.savez(out, **{f"{i} {key}": value.numpy() for i, one in enumerate(found) for key, value in one.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
