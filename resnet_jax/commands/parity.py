"""`python -m resnet_jax parity resnet152`"""

import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional


def parity(
    models: Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="MODEL [MODEL ...]")]],
    weights: Path | None = None,
    dtype: tuple[Literal["float32", "float64", "bfloat16"], ...] = ("float32",),
    images: tuple[Path, ...] = (),
    image_sizes: tuple[int, ...] = (),
    train_image_size: int | None = None,
    batch_size: int = 4,
    steps: int = 10,
    argmax_images: int = 0,
    optimizers: tuple[str, ...] = ("all together",),
    checks: tuple[Literal["forward", "gradients", "statistics", "trajectory"], ...] = (
        "forward",
        "gradients",
        "statistics",
        "trajectory",
    ),
    seed: int = 0,
    verbose: bool = False,
    out: Path | None = None,
) -> None:
    """Run a network here and in PyTorch side by side, and show where they differ. Needs torch and torchvision.

    Ends with exit status 1 if a difference is larger than the tolerances of docs/parity.md.

    Args:
        models: Names of torchvision's or timm's networks, unet_ and an encoder of segmentation_models_pytorch, or
            insightface's iresnets; "torchvision" stands for its ten ResNets.
        weights: A weight file for both sides; by default random weights that hide no error.
        dtype: One or several of float32, float64 and bfloat16.
        images: Image files for the forward comparison; by default noise.
        image_sizes: Sizes of the noise, in pixels; by default 224 and 97, 112 and 97 for an iresnet, and 97 for clips,
            which are 7 frames of this height.
        train_image_size: Size of the noise for gradients, statistics and training steps, in pixels; by default 65,
            97 for an iresnet, and 49 for clips.
        batch_size: Images of noise in every comparison.
        steps: Number of training steps.
        argmax_images: Number of further images of noise for which both sides must name the same class.
        optimizers: Settings to train with, such as "probe"; "all" stands for every one, "fine-tuning" for those with
            frozen parameters, groups or AdamW.
        checks: What to compare.
        seed: Seed of weights and noise.
        verbose: Show one row per module and parameter instead of a selection.
        out: Write the tables to this Markdown file as well, and all numbers to a .json beside it.
    """
    from resnet_jax.parity import compare, write_reports
    from resnet_jax.weights import WEIGHT_SETS, Preset, preprocess

    if models == ("torchvision",):
        models = tuple(dict.fromkeys(found.model for found in WEIGHT_SETS if found.classes == "imagenet"))
    pixels = preprocess(images, Preset()) if images else None
    reports = []
    for name in models:
        for number in dtype:
            report = compare(
                name,
                weights=weights,
                dtype=number,
                images=pixels,
                image_sizes=image_sizes,
                train_image_size=train_image_size,
                batch_size=batch_size,
                steps=steps,
                argmax_images=argmax_images,
                optimizers=optimizers,
                checks=checks,
                seed=seed,
            )
            print(report.markdown(verbose), flush=True)
            reports.append(report)
            if out:
                write_reports(reports, out, verbose)
    failed = [report.title for report in reports if not report.passed]
    print(f"FAIL: {'; '.join(failed)}" if failed else f"PASS: {len(reports)} comparison(s)")
    if failed:
        sys.exit(1)
