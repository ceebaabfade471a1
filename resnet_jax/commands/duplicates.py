"""`resnet_jax duplicates RUN`"""

import dataclasses
import json
from functools import partial
from pathlib import Path

import numpy as np

from resnet_jax.analysis.colours import BLUE, ORANGE
from resnet_jax.commands.analysed import ITS_OWN, Which, bars, kept_in, open_analysed
from resnet_jax.commands.sheet import SHOWN, check_picture, draw_grid, short
from resnet_jax.display import plain_console

COLUMNS = 6
LISTED = 10  # pairs that are printed


def duplicates(
    which: Which = ITS_OWN,
    out: Path = Path("duplicates.png"),
    stage: str = "pooled",
    whole_maps: bool = False,
    threshold: float = 0.99,
    features: Path | None = None,
    as_json: bool = False,
) -> None:
    """Find images of the split to evaluate on that are in the training split too, or nearly: their features are equal.

    `data check` finds files that are equal in every byte. This finds copies of another size, brightness or quality.
    Pairs come the most similar first. Each says whether the pixels are the same. Look at the sheet, and choose a
    threshold.

    Args:
        out: The picture, a PNG with the first 50 pairs.
        stage: Whose features are compared: stem, stage1, stage2, ..., pooled.
        whole_maps: Compare maps, not their means over space: for small images, with an early stage. It takes more room.
        threshold: The cosine of features from which a pair is shown.
        features: A folder for the features, in folders train and test; without it they are not kept.
        as_json: Print one JSON object with all pairs instead of a summary.
    """
    from resnet_jax.analysis.duplicates import duplicates as find
    from resnet_jax.analysis.features import features as compute
    from resnet_jax.analysis.images import images_of
    from resnet_jax.data import load_source
    from resnet_jax.errors import ConfigError
    from resnet_jax.runtime.programs import remember_programs

    if not 0 < threshold <= 1:
        raise ConfigError(f"--threshold = {threshold} is no cosine between 0 and 1, such as 0.99; correct it")
    check_picture(out)
    remember_programs()
    network, config, _ = open_analysed(which)
    splits = (config.train_split, config.eval_split)
    sources = [load_source(config, split) for split in splits]
    with kept_in(features) as folder, bars() as progress:
        kept = []
        for split, name in zip(splits, ("train", "test"), strict=True):
            tell = partial(_tell, progress, progress.add_task(split, total=None))
            kept.append(
                compute(
                    *(network, config, split, (stage,), folder / name),
                    maps=whole_maps,
                    batch_size=which.batch_size,
                    tell=tell,
                )
            )
        pixels = [partial(images_of, source, network.preset) for source in sources]
        found = find(kept[0], kept[1], stage, (pixels[0], pixels[1]), threshold=threshold)
        labels, names = [one.labels for one in kept], kept[0].class_names
    shown = f"{which.data.name or config.name}, {splits[0]} and {splits[1]}"
    exact = sum(pair.same_pixels for pair in found.pairs)
    usual = (
        f"The nearest training image has cosine {found.median:.4f} (median), {found.rare:.4f} (exceeded by 1 %), "
        f"{found.largest:.4f} (largest)."
    )
    if found.pairs:
        images, captions = [], []
        for pair in found.pairs[: SHOWN // 2]:
            places = (pair.first, pair.second)
            images += [one([place])[0] / np.float32(255) for one, place in zip(pixels, places, strict=True)]
            beside = f"{pair.cosine:.4f}" + ", same pixels" * pair.same_pixels
            captions += [
                f"{short(split, 8)} {place}: {short(names[label[place]], 9)}\n{beside}"
                for split, place, label in zip(splits, places, labels, strict=True)
            ]
        more = f"; the first {SHOWN // 2}" if len(found.pairs) > SHOWN // 2 else ""
        draw_grid(
            images,
            captions,
            f"{network.title}: nearly equal in {shown}",
            f"{len(found.pairs):,} pairs whose {stage} has a cosine of at least {threshold:g}{more}.\n{usual}",
            out,
            columns=COLUMNS,
            frames=[(BLUE, ORANGE)[place // 2 % 2] for place in range(len(images))],
        )
    if as_json:
        pairs = [dataclasses.asdict(pair) | {"same_pixels": pair.same_pixels} for pair in found.pairs]
        print(json.dumps(dataclasses.asdict(found) | {"splits": splits, "stage": stage, "pairs": pairs}, indent=1))
        return
    console = plain_console()
    console.print(f"{network.title}, on {shown}: {len(sources[0]):,} and {len(sources[1]):,} images", soft_wrap=True)
    console.print(usual, soft_wrap=True)
    console.print(
        f"{len(found.pairs):,} pairs at or above {threshold:g}, {exact:,} of them with the same pixels"
        + (f". The picture is in {out}" if found.pairs else ""),
        soft_wrap=True,
    )
    if found.cut_off:
        console.print(f"{found.cut_off:,} images have more partners than are listed; raise --threshold", soft_wrap=True)
    for pair in found.pairs[:LISTED]:
        same = ", the same pixels" if pair.same_pixels else f", pixels differ by {pair.difference:.1f} of 255"
        console.print(f"  {splits[0]} {pair.first} and {splits[1]} {pair.second}: {pair.cosine:.4f}{same}")
    if len(found.pairs) > LISTED:
        console.print(f"  ... and {len(found.pairs) - LISTED:,} more; --as-json lists all")


def _tell(progress, task, done: int, count: int) -> None:  # type: ignore[no-untyped-def]
    progress.update(task, completed=done, total=count)
