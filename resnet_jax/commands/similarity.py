"""`resnet_jax similarity RUN --other RUN`"""

import dataclasses
import json
from pathlib import Path

from rich.table import Table

from resnet_jax.commands.analysed import ITS_OWN, Which, bars, open_analysed, open_other, split_of
from resnet_jax.commands.sheet import check_picture
from resnet_jax.display import plain_console


def similarity(
    which: Which = ITS_OWN,
    other: str | None = None,
    untrained: bool = False,
    stages: tuple[str, ...] = (),
    out: Path = Path("similarity.png"),
    split: str | None = None,
    seed: int = 0,
    as_json: bool = False,
) -> None:
    """Compare the stages of two networks, or of a network with itself: linear CKA without bias, as a heat map.

    1 says that two stages tell the same of the images, but for rotation and scale, and about 0 that they have nothing
    in common. Whole maps are compared, batch by batch, so memory does not grow with the number of images.

    Args:
        other: The second network: a run, a weight file, or a published set; without it the first itself.
        untrained: The second network is the first with random parameters.
        stages: Stages of both: stem, stage1, stage2, ..., pooled, logits; without it all.
        out: The picture, a PNG.
        split: The split; without it the one to evaluate on.
        seed: Of the random parameters.
        as_json: Print one JSON object instead of a table.
    """
    from resnet_jax.analysis.heat_map import plot_similarity
    from resnet_jax.analysis.probe import untrained as with_random_parameters
    from resnet_jax.analysis.similarity import similarity as compute
    from resnet_jax.errors import ConfigError
    from resnet_jax.runtime.programs import remember_programs

    if other is not None and untrained:
        raise ConfigError("--other and --untrained name two second networks; leave one out")
    if seed < 0:
        raise ConfigError(f"--seed = {seed} must be at least 0")
    check_picture(out)
    remember_programs()
    opened = open_analysed(which)
    first = opened.network
    second = open_other(other, which) if other else with_random_parameters(first, seed) if untrained else first
    config, chosen, shown = split_of(which, opened, split)
    with bars() as progress:
        task = progress.add_task(chosen, total=None)
        result = compute(
            *(first, second, config, chosen, stages),
            batch_size=which.batch_size,
            tell=lambda done, count: progress.update(task, completed=done, total=count),
        )
    result = dataclasses.replace(result, data=shown)
    plot_similarity(result, out)
    if as_json:
        print(json.dumps(dataclasses.asdict(result) | {"values": result.values.tolist()}, indent=1))
        return
    table = Table(
        title=f"Linear CKA on {shown}: {result.images:,} images, {result.batch_size} at once",
        caption=f"Rows: {result.first}. Columns: {result.second}.",
        caption_justify="left",
    )
    table.add_column("")
    for stage in result.columns:
        table.add_column(stage, justify="right")
    for stage, values in zip(result.rows, result.values, strict=True):
        table.add_row(stage, *(f"{value:.2f}" for value in values))
    console = plain_console()
    console.print(table)
    console.print(f"The picture is in {out}", soft_wrap=True)
