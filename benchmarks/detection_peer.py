"""torchvision's detectors, timed turn by turn: the other side of `detection.py`.

It needs torch and torchvision alone, with compiled operators, and so runs in an environment of its own.

    python benchmarks/detection_peer.py retinanet_resnet50_fpn 800 1066

It writes `ready` and the versions, then for each line that it reads, the name of a part, the seconds that it took.
"""

import os
import sys
import time

import torch
import torchvision

PROPOSALS, DETECTIONS = 1000, 100


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


def main():
    torch.set_num_threads(os.cpu_count() or 1)
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
