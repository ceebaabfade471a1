"""torchvision's detectors, timed turn by turn: the other side of `detection.py`.

It needs torch and torchvision alone, with compiled operators, and so runs in an environment of its own.

    python benchmarks/detection_peer.py retinanet_resnet50_fpn 800 1066          # turns
    python benchmarks/detection_peer.py retinanet_resnet50_fpn 800 1066 step 0.5 # a training step, its memory and time

It writes `ready` and the versions, then for each line that it reads, the name of a part, the seconds that it took. Of
the training step, of 2 images, it writes by how many bytes the process grows, and the seconds of the third. The last
number is from which overlap with an object a proposal is to find it, if the network makes proposals.
"""

import os
import resource
import sys
import time

import torch
import torchvision

PROPOSALS, DETECTIONS, OBJECTS = 1000, 100, 8


def parts_of(name, height, width):
    """What is timed, by name: the whole detector; its network without suppression and RoI align; and these alone."""
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None).eval()
    model = model.to(memory_format=torch.channels_last)
    image = torch.rand(3, height, width)
    canvas, _ = model.transform([image])
    pixels = canvas.tensors.to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)

    def boxes_of(count):
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([width, height]) * 0.9
        sides = torch.exp(torch.rand(count, 2, generator=generator) * 3.5 + 2.5)
        return torch.cat([corner, torch.minimum(corner + sides, torch.tensor([width, height]))], 1)

    boxes, scores = boxes_of(PROPOSALS), torch.rand(PROPOSALS, generator=generator)
    parts = {
        "whole": lambda: model([image]),
        "nms": lambda: torchvision.ops.nms(boxes, scores, 0.7),
    }
    if not hasattr(model, "roi_heads"):
        return parts | {"network": lambda: model.head(list(model.backbone(pixels).values()))}
    heads, maps = model.roi_heads, model.backbone(pixels)
    grids = torch.rand(PROPOSALS, model.backbone.out_channels, 7, 7)
    large = torch.rand(DETECTIONS, model.backbone.out_channels, 14, 14)

    def network():
        model.rpn.head(list(model.backbone(pixels).values()))
        found = heads.box_predictor(heads.box_head(grids))
        return found, heads.mask_predictor(heads.mask_head(large)) if heads.has_mask() else None

    pool = lambda: heads.box_roi_pool(maps, [boxes], [(height, width)])
    return parts | {"network": network, "align": pool}


def step(name, height, width, fg_iou):
    """As `train.py` has it: the whole network is trained by SGD, and images are as large as they are."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    options = {"min_size": min(height, width), "max_size": max(height, width)}
    if "rcnn" in name:
        options |= {"box_fg_iou_thresh": fg_iou, "box_bg_iou_thresh": fg_iou}
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, **options).train()
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, OBJECTS, 2, generator=generator) * torch.tensor([width, height]) * 0.7
    boxes = torch.cat([corner, corner + torch.tensor([width, height]) * 0.2], -1)
    targets = []
    for own in boxes:
        target = {"boxes": own, "labels": torch.arange(OBJECTS) % 90 + 1}
        if hasattr(model, "roi_heads") and model.roi_heads.has_mask():
            target["masks"] = torch.zeros(OBJECTS, height, width, dtype=torch.uint8)
            for mask, (left, top, right, bottom) in zip(target["masks"], own.int().tolist(), strict=True):
                mask[top:bottom, left:right] = 1
        targets.append(target)
    images = list(torch.rand(2, 3, height, width, generator=generator))
    for _ in range(3):
        started = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        sum(model(images, targets).values()).backward()
        optimizer.step()
        seconds = time.perf_counter() - started
    print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before), seconds)


def main():
    torch.set_num_threads(os.cpu_count() or 1)
    if "step" in sys.argv:
        step(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[5]))
        return
    with torch.inference_mode():
        parts = parts_of(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
        print(f"ready torch {torch.__version__}, torchvision {torchvision.__version__}", flush=True)
        for line in sys.stdin:
            if line.strip() not in parts:
                print("none", flush=True)
                continue
            started = time.perf_counter()
            parts[line.strip()]()
            print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()
