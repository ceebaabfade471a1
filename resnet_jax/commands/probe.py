"""`resnet_jax probe RUN`"""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from resnet_jax.commands.analysed import ITS_OWN, Which, bars, open_analysed, teller
from resnet_jax.display import plain_console

if TYPE_CHECKING:
    from resnet_jax.analysis.probe import Probe


def probe(
    which: Which = ITS_OWN,
    stages: tuple[str, ...] = (),
    out: Path | None = None,
    random: bool = True,
    seed: int = 0,
    as_json: bool = False,
) -> None:
    """Show how well classes can be told apart from the stages of a frozen network, by a linear function and neighbours.

    Features are computed once and kept. Logistic regression is solved to its optimum on the training split, with a
    penalty chosen on a part of it, and measured on the split to evaluate on. An untrained network stands beside.

    Args:
        stages: What to probe: stem, stage1, stage2, ..., pooled; without it every stage, and pooled. Maps are averaged
            over space.
        out: The folder for features, probe.json and probe.png; without it the folder probe of the run, or one here.
        random: Also probe a network of the same shape with random parameters.
        seed: Of the images on which the penalty is chosen, and of the random parameters.
        as_json: Print one JSON object instead of a table.
    """
    from resnet_jax.analysis.picture import plot_probe
    from resnet_jax.analysis.probe import PICTURE, RESULTS
    from resnet_jax.analysis.probe import probe as compute
    from resnet_jax.errors import ConfigError
    from resnet_jax.files import write_atomically
    from resnet_jax.run.network import describe
    from resnet_jax.runtime.programs import remember_programs

    if seed < 0:
        raise ConfigError(f"--seed = {seed} must be at least 0")
    remember_programs()
    found, config, run = open_analysed(which)
    out = out or (run / "probe" if run else Path(f"probe_{re.sub(r'[^A-Za-z0-9.]+', '_', found.title)}"))
    with bars() as progress:
        result = compute(
            *(found, config, out),
            stages=stages,
            random=random,
            seed=seed,
            batch_size=which.batch_size,
            tell=teller(progress),
        )
    text = json.dumps(_without_nan(dataclasses.asdict(result)), indent=1)
    write_atomically(out / RESULTS, text)
    plot_probe(result, out / PICTURE)
    if as_json:
        print(text)
        return
    console = plain_console()
    console.print(_table(result, describe(found.preset)))
    console.print(f"The picture is in {out / PICTURE}, the numbers in {out / RESULTS}", soft_wrap=True)


def _table(result: "Probe", note: str) -> Table:
    error = 50 / math.sqrt(result.test_images)
    lines = [
        f"% right of {result.test_images:,} test images (standard error at most {error:.1f}); "
        f"fitted to {result.train_images:,}. The most frequent class, always: {100 * result.most_frequent:.1f}."
    ]
    lines.append(f"{note[0].upper()}{note[1:]}.")
    if result.random:
        lines.append(
            "Untrained: random parameters, BatchNorm's running statistics as initialised (mean 0, variance 1)."
        )
    if any(one.end_of_grid for one in (*result.stages, *result.random)):
        lines.append("*: the smallest or largest C that was tried.")
    table = Table(title=f"{result.title}, on {result.data}", caption=" ".join(lines), caption_justify="left")
    table.add_column("stage")
    for heading in ("features", "C", "linear\nprobe", f"{result.neighbours}-NN"):
        table.add_column(heading, justify="right")
    if result.random:
        for heading in ("untrained:\nprobe", f"untrained:\n{result.neighbours}-NN"):
            table.add_column(heading, justify="right")
    for place, one in enumerate(result.stages):
        beside = [result.random[place]] if result.random else []
        table.add_row(
            *(one.stage, f"{one.features:,}", f"{one.c:.2g}{'*' * one.end_of_grid}"),
            *(_percent(value) for each in (one, *beside) for value in (each.accuracy, each.knn_accuracy)),
        )
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.1f}" if math.isfinite(share) else "not finite"


def _without_nan(value: Any) -> Any:
    """JSON has no nan and no infinity: null."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
