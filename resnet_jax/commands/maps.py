"""`resnet_jax maps RUN`"""

import json
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from rich.table import Table

from resnet_jax.commands.analysed import ITS_OWN, Which, bars, open_analysed, open_other, split_of
from resnet_jax.display import plain_console

FOLDERS = ("features", "other", "untrained")


def maps(
    which: Which = ITS_OWN,
    other: str | None = None,
    untrained: bool = False,
    stages: tuple[str, ...] = ("stage1", "stage2", "pooled"),
    method: Literal["tsne", "umap", "pca"] = "tsne",
    out: Path = Path("maps"),
    split: str | None = None,
    images: int | None = None,
    perplexity: float = 30.0,
    whole_maps: bool = False,
    thumbnails: int = 0,
    seed: int = 0,
    as_json: bool = False,
) -> None:
    """Draw maps of a network's features: early, middle and late side by side, with what can be measured beside each.

    A map can deceive. So three numbers of the features themselves stand above it: k-NN accuracy, linear-probe accuracy
    and silhouette. The same seed gives the same map.

    Args:
        other: A second network in a row below, on the same images: a run, a weight file, or a published set.
        untrained: In a row below: the network with random parameters.
        stages: What to map: stem, stage1, stage2, ..., pooled, logits. Maps are averaged over space.
        method: t-SNE and UMAP need an extra: pip install 'resnet-jax-linen[maps]'.
        out: The folder for map.png, map.npz (the points), map.json (the numbers), and the features.
        split: The split; without it the one to evaluate on.
        images: Take this many images, drawn by lot; without it all.
        perplexity: Of t-SNE: about how many neighbours count.
        whole_maps: Take whole maps, not their means over space; more than 4,096 numbers are reduced by PCA to 50.
        thumbnails: Draw at most this many images in place of points, where they do not lie on each other.
        seed: Of the map, the sample, the numbers and the random parameters.
        as_json: Print one JSON object instead of a table.
    """
    from resnet_jax.analysis.features import features as compute
    from resnet_jax.analysis.features import rows_of
    from resnet_jax.analysis.images import images_of
    from resnet_jax.analysis.maps import maps as module
    from resnet_jax.analysis.probe import untrained as with_random_parameters
    from resnet_jax.analysis.store import check_folder
    from resnet_jax.commands.draw_maps import draw_maps
    from resnet_jax.data import load_source
    from resnet_jax.errors import ConfigError
    from resnet_jax.runtime.programs import remember_programs

    for option, value, least in (("--seed", seed, 0), ("--thumbnails", thumbnails, 0), ("--images", images, 1)):
        if value is not None and value < least:
            raise ConfigError(f"{option} = {value} must be at least {least}")
    check_folder(out, (*FOLDERS, module.PICTURE, module.POINTS, module.NUMBERS), "maps")
    remember_programs()
    opened = open_analysed(which)
    config, chosen, shown = split_of(which, opened, split)
    source = load_source(config, chosen)
    labels = np.asarray(source.labels())
    sampled = module.sample_of(labels, images, seed)
    module.check_possible(labels[sampled], method, perplexity)
    networks = {FOLDERS[0]: opened.network}
    if other is not None:
        networks[FOLDERS[1]] = open_other(other, which)
    if untrained:
        networks[FOLDERS[2]] = with_random_parameters(opened.network, seed)
    stages = tuple(dict.fromkeys(stages))
    for network in networks.values():
        rows_of(network, stages, maps=whole_maps, dtype="float32")  # only to refuse unknown stages at once
    with bars() as progress:
        kept = []
        for name, network in networks.items():
            task = progress.add_task(name, total=None)
            made = compute(
                *(network, config, chosen, stages, out / name),
                maps=whole_maps,
                batch_size=which.batch_size,
                replace_others=True,
                tell=partial(_tell, progress, task),
            )
            kept.append((network.title, made))
        drawing = progress.add_task("maps", total=None)
        result = module.make_maps(
            *(kept, stages, method),
            data=shown,
            images=images,
            perplexity=perplexity,
            seed=seed,
            tell=partial(_tell, progress, drawing),
        )
    module.save_points(result, out)
    pictures = None
    if thumbnails:
        rows = np.random.default_rng(seed).permutation(len(result.places))[:thumbnails]
        pictures = rows, images_of(source, opened.network.preset, result.places[rows])
    draw_maps(result, out / module.PICTURE, pictures)
    if as_json:
        print(json.dumps(module.as_json(result), indent=1))
        return
    console = plain_console()
    for panels in result.rows:
        table = Table(title=f"{panels[0].network}, on {shown}: {len(result.places):,} images")
        table.add_column("stage")
        for heading in ("features", f"{panels[0].numbers.neighbours}-NN", "linear probe", "silhouette"):
            table.add_column(heading, justify="right")
        for panel in panels:
            numbers = panel.numbers
            shares = (f"{100 * share:.1f}" for share in (numbers.knn, numbers.probe))
            table.add_row(panel.stage, f"{panel.width:,}", *shares, f"{numbers.silhouette:.2f}")
        console.print(table)
    console.print(f"The picture is in {out / module.PICTURE}, the points in {out / module.POINTS}", soft_wrap=True)


def _tell(progress, task, done: int, count: int) -> None:  # type: ignore[no-untyped-def]
    progress.update(task, completed=done, total=count)
