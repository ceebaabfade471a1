"""What `resnet_jax evaluate` prints and draws of a network for embeddings."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from resnet_jax.display import plain_console

if TYPE_CHECKING:
    from resnet_jax.tasks.embed.measure import Verified


def show_pairs(
    found: "Mapping[str, Verified]", *, title: str, note: str, step: int | None, roc: Path | None, as_json: bool
) -> None:
    """Prints the numbers of one or several evaluations, as tables or as one JSON object.

    Args:
      found: by the names of the evaluations; one without a name is called "".
      step: of a run.
      roc: the picture to draw, of the first evaluation.
    """
    from resnet_jax.run.evaluate import key

    if roc is not None:
        from resnet_jax.analysis.roc import plot_roc

        name, first = next(iter(found.items()))
        plot_roc(first, f"{title}{f', {name}' if name else ''}", roc)
    if as_json:
        numbers = {
            key(name, number): value
            for name, one in found.items()
            for number, value in {**one.numbers, "count": one.images, "pairs": len(one.same)}.items()
        }
        print(json.dumps({**({} if step is None else {"step": step}), **numbers}))
        return
    console = plain_console()
    table = Table(title=title, caption=note)
    named = any(found)
    if named:
        table.add_column("evaluation")
    for heading in ("verification", "rank-1", "mAP", "equal error", "images"):
        table.add_column(heading, justify="right")
    for name, one in found.items():
        numbers = one.numbers
        ranked = [f"{100 * numbers[rank]:.2f} %" if rank in numbers else "" for rank in ("rank1", "map")]
        accuracy = f"{100 * numbers['accuracy']:.2f} ± {100 * numbers['deviation']:.2f} %"
        row = (accuracy, *ranked, f"{100 * numbers['loss']:.2f} %", f"{one.images:,}")
        table.add_row(*([name] if named else []), *row)
    console.print(table)
    for name, one in found.items():
        console.print(_rates(one, name))
    if roc is not None:
        console.print(f"The curve and the cosines are in {roc}", soft_wrap=True)


def _rates(one: "Verified", name: str) -> Table:
    from resnet_jax.tasks.embed.verification import FALSE_ACCEPT_RATES

    others = one.curve.others
    caption = f"{len(one.same) - others:,} pairs of one identity, {others:,} of different ones"
    table = Table(title=f"Accepted at a rate of false accepts{f', {name}' if name else ''}", caption=caption)
    for heading in ("FAR", "threshold", "TAR"):
        table.add_column(heading, justify="right")
    for rate in FALSE_ACCEPT_RATES:
        at = one.curve.at(rate)
        table.add_row(f"{rate:g}", *((f"{at[1]:.4f}", f"{100 * at[0]:.2f} %") if at else ("", "too few pairs")))
    return table
