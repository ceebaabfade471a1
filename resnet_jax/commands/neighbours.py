"""`resnet_jax neighbours RUN`"""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.table import Table

from resnet_jax.analysis.colours import BLUE, VERMILION
from resnet_jax.commands.analysed import ITS_OWN, Which, bars, kept_in, open_analysed, split_of
from resnet_jax.commands.sheet import check_picture, draw_grid, short
from resnet_jax.display import plain_console

MOST = 400  # images on a sheet


def neighbours(
    which: Which = ITS_OWN,
    out: Path = Path("neighbours.png"),
    stage: str = "pooled",
    metric: Literal["cosine", "euclidean"] = "cosine",
    queries: int = 8,
    nearest: int = 6,
    split: str | None = None,
    features: Path | None = None,
    seed: int = 0,
    as_json: bool = False,
) -> None:
    """Show images with their nearest among a network's features, and how often these are of the same class.

    Every image of the split is compared with every other. The sheet shows some: a row for each, the nearest first.

    Args:
        out: The picture, a PNG.
        stage: Whose features: stem, stage1, stage2, ..., pooled, logits. Maps are averaged over space.
        metric: Cosines, or Euclidean distances.
        queries: Rows of the sheet; images drawn by lot.
        nearest: How many of the nearest are shown.
        split: The split; without it the one to evaluate on.
        features: A folder for the features, which are taken from there if it has them; without it they are not kept.
        seed: Of the images that are shown.
        as_json: Print one JSON object instead of a table.
    """
    from resnet_jax.analysis.features import features as compute
    from resnet_jax.analysis.images import images_of
    from resnet_jax.analysis.retrieval import retrieval
    from resnet_jax.analysis.search import nearest as search
    from resnet_jax.data import load_source
    from resnet_jax.errors import ConfigError
    from resnet_jax.runtime.programs import remember_programs

    for option, value in (("--queries", queries), ("--nearest", nearest)):
        if value < 1:
            raise ConfigError(f"{option} = {value} must be at least 1")
    if seed < 0:
        raise ConfigError(f"--seed = {seed} must be at least 0")
    if queries * (nearest + 1) > MOST:
        raise ConfigError(
            f"{queries} queries with {nearest} neighbours are {queries * (nearest + 1)} images, and a sheet has room "
            f"for {MOST}; ask for fewer"
        )
    check_picture(out)
    remember_programs()
    opened = open_analysed(which)
    network = opened.network
    config, chosen, shown = split_of(which, opened, split)
    source = load_source(config, chosen)
    with kept_in(features) as folder, bars() as progress:
        task = progress.add_task(chosen, total=None)
        kept = compute(
            *(network, config, chosen, (stage,), folder),
            batch_size=which.batch_size,
            tell=lambda done, count: progress.update(task, completed=done, total=count),
        )
        labels, rows = kept.labels, np.array(kept[stage])
    found = retrieval(rows, labels, metric=metric)
    numbers = {
        "network": network.title,
        "data": shown,
        "stage": stage,
        "metric": metric,
        "images": len(labels),
        **dataclasses.asdict(found),
    }
    picked = np.random.default_rng(seed).permutation(len(labels))[:queries]
    places, values = search(rows, neighbours=min(nearest, len(labels) - 1), metric=metric)
    cells = np.concatenate([picked[:, None], places[picked]], axis=1)
    captions, frames = [], []
    for query, row in enumerate(cells):
        names = [short(kept.class_names[labels[place]], 15) for place in row]
        right = labels[row[1:]] == labels[row[0]]
        captions.append(f"{names[0]}\nimage {row[0]}")
        captions += [
            f"{'✓' if same else '✗'} {name}\n{value:.3g}"
            for same, name, value in zip(right, names[1:], values[picked[query]], strict=True)
        ]
        frames += [None, *(BLUE if same else VERMILION for same in right)]
    images = images_of(source, network.preset, cells.ravel()) / np.float32(255)
    draw_grid(
        list(images),
        captions,
        f"{network.title}, on {shown}: neighbours by {stage}",
        f"Left: the query. Then its nearest by {metric}, with its value. Blue and ✓: the same class; vermilion and ✗: "
        f"another.\n{_in_words(numbers)}",
        out,
        columns=cells.shape[1],
        frames=frames,
    )
    if as_json:
        print(json.dumps(numbers, indent=1))
        return
    console = plain_console()
    table = Table(title=f"{network.title}, on {shown}: neighbours by {stage}, {metric}")
    for heading in (*(f"recall@{k}" for k in found.recall), "mAP", "mAP@R"):
        table.add_column(heading, justify="right")
    shares = (*found.recall.values(), found.mean_average_precision, found.map_at_r)
    table.add_row(*(f"{100 * share:.1f}" for share in shares))
    console.print(table)
    alone = f"; {found.alone:,} alone in their class are none" if found.alone else ""
    console.print(f"In %, over {found.queries:,} queries{alone}. The picture is in {out}", soft_wrap=True)


def _in_words(numbers: dict[str, Any]) -> str:
    recalls = ", ".join(f"recall@{k} {100 * share:.1f} %" for k, share in numbers["recall"].items())
    return (
        f"Over {numbers['queries']:,} queries of {numbers['images']:,} images: {recalls}, mAP "
        f"{100 * numbers['mean_average_precision']:.1f} %, mAP@R {100 * numbers['map_at_r']:.1f} %."
    )
