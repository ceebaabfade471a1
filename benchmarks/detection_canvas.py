"""How far boxes and scores move on canvases that are larger than an image needs.

    python benchmarks/detection_canvas.py runs/scenes                       # 64 and 256 pixels more, 100 images
    python benchmarks/detection_canvas.py runs/scenes --more 32 --images 20

What a network sees beside an image are zeros. Where the canvas ends, convolutions pad with zeros too, but in every
layer, and what lies beyond an image on a larger canvas is no longer 0 after the first bias. So what is found near the
border depends on the canvas, in torchvision as here. The network is that of a run for detection, and the images are
those of its evaluation. Each is alone on its canvas: first as torchvision has it, the image rounded up to a multiple of
32, then on larger ones. Compared are the detections with a score of `--score` or more.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a checkout that is not installed

import numpy as np

import resnet_jax as rn
from resnet_jax.data import load_source
from resnet_jax.data.boxes import detection_shape
from resnet_jax.data.transforms import decode
from resnet_jax.runtime.xla_flags import set_xla_flags

SAME = 0.5  # an overlap


def overlaps(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=-1)
    area = lambda boxes: np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1)
    return shared / (area(one)[:, None] + area(other)[None] - shared)


def compare(one: dict[str, np.ndarray], other: dict[str, np.ndarray], least: float) -> list[tuple[float, float]]:
    """(pixels, score) by which each sure detection moves; nan where the other canvas has none like it."""
    moves = []
    sure = one["scores"] >= least
    same = overlaps(one["boxes"][sure], other["boxes"]) * (one["labels"][sure][:, None] == other["labels"][None])
    for box, score, row in zip(one["boxes"][sure], one["scores"][sure], same, strict=True):
        if not len(row) or row.max() < SAME:
            moves.append((np.nan, np.nan))
            continue
        best = row.argmax()
        moves.append((float(np.abs(other["boxes"][best] - box).max()), abs(float(other["scores"][best] - score))))
    return moves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="the folder of a run for detection")
    parser.add_argument("--more", type=int, nargs="+", default=[64, 256], help="pixels; multiples of 32")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--score", type=float, default=0.5)
    asked = parser.parse_args()
    set_xla_flags()
    run = rn.load_run(asked.run)
    data, variables = run.config.data, run.state.eval_variables
    model = run.model.clone(image_mean=data.mean, image_std=data.std)
    source = load_source(data, data.eval_split)
    moves: dict[int, list[tuple[float, float]]] = {more: [] for more in asked.more}
    for index in range(min(asked.images, len(source))):
        example = source[index]
        image = decode(example["image"], data.channels, name=str(index), exif=data.exif)
        canvas = [-(-side // 32) * 32 for side in detection_shape(image.shape, model.min_size, model.max_size)]
        found = {}
        for more in (0, *asked.more):
            found[more] = rn.detect(model, variables, [image], canvas=(canvas[0] + more, canvas[1] + more))[0]
        for more in asked.more:
            moves[more] += compare(found[0], found[more], asked.score)
    for more, rows in moves.items():
        pixels, scores = np.array(rows).reshape(-1, 2).T
        there = ~np.isnan(pixels)
        if not there.any():
            raise SystemExit(f"nothing is found with a score of {asked.score} or more; choose a lower --score")
        print(
            f"{more} pixels more: of {len(rows)} detections with a score of {asked.score} or more {there.sum()} are on "
            f"both canvases; boxes move by {pixels[there].mean():.3f} pixels ({pixels[there].max():.2f} at most), "
            f"scores by {scores[there].mean():.4f} ({scores[there].max():.3f} at most)"
        )


if __name__ == "__main__":
    main()
