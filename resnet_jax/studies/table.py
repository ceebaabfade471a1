"""The table of a study, as Markdown, as CSV and for a terminal."""

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from resnet_jax.studies.numbers import Interval
from resnet_jax.studies.results import Outcome, Results, Row
from resnet_jax.studies.study import Published

if TYPE_CHECKING:
    from rich.table import Table

BESIDE = "†"


def columns(results: Results) -> list[str]:
    """The titles of the table for people."""
    numbers = [results.shown(name).label for name in _numbers(results)]
    paper = ["the paper's"] if _papers(results) else []
    return [*results.study.axes, *numbers, "n", "parameters", "MACs", "seconds", *paper]


def cells(results: Results, row: Row) -> list[str]:
    """The row of a cell, under `columns`."""
    numbers = [_spread(row.interval(name), results.shown(name).form) for name in _numbers(results)]
    seconds = row.interval("seconds")
    mark = f" {BESIDE}" if any(outcome.beside > 1 for outcome in row.complete) else ""
    paper = [str(results.study.paper[row.cell.name])] if row.cell.name in results.study.paper else [""]
    return [
        *row.cell.values.values(),
        *numbers,
        _count(row),
        f"{row.parameters:,}",
        _short(row.macs),
        f"{seconds.mean:,.0f}{mark}" if seconds else "",
        *(paper if _papers(results) else []),
    ]


def notes(results: Results) -> list[str]:
    """What stands under the table."""
    found = []
    for row in results.rows:
        for outcome in row.outcomes:
            if not outcome.complete:
                found.append(f"{row.cell.name}, seed {outcome.seed}: {_missing(outcome)}")
            elif outcome.why:
                found.append(f"{row.cell.name}, seed {outcome.seed}: a measure is missing: {outcome.reason}")
    if any(outcome.beside > 1 for row in results.rows for outcome in row.outcomes):
        found.append(f"{BESIDE} the seeds were trained side by side in one program; seconds are the share of one seed.")
    if any(name.startswith("train/") for name in results.numbers):
        found.append("Numbers in training are means over the last epoch, on the images as training changes them.")
    for source in dict.fromkeys(published.source for published in _papers(results)):
        found.append(f"The paper's: printed in {source}, not measured here.")
    return found


def markdown(results: Results) -> str:
    head = columns(results)
    first = len(results.study.axes)
    lines = [_line(head), _line(["--" if place < first else "--:" for place in range(len(head))])]
    lines += [_line(cells(results, row)) for row in results.rows]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(results))]).rstrip() + "\n"


def comma_separated(results: Results) -> str:
    """All numbers, unrounded: for each its mean, its standard deviation and how many seeds have it."""
    names = list(dict.fromkeys([*_numbers(results), *_known(results), "seconds"]))
    spread = [f"{name} {what}" for name in names for what in ("mean", "sd", "n")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["cell", *results.study.axes, "n", "seeds", *spread, "parameters", "macs", "side_by_side", "paper",
                     "paper_source", "missing"])  # fmt: skip
    for row in results.rows:
        published = results.study.paper.get(row.cell.name)
        writer.writerow(
            [
                *(row.cell.name, *row.cell.values.values(), len(row.complete), len(row.outcomes)),
                *(value for name in names for value in _parts(row.interval(name))),
                *(row.parameters, row.macs, max((outcome.beside for outcome in row.complete), default=1)),
                *(published or "", published.source if published else ""),
                "; ".join(f"seed {one.seed}: {_missing(one)}" for one in row.outcomes if not one.complete),
            ]
        )
    return text.getvalue()


def on_screen(results: Results) -> "Table":
    from rich.table import Table

    table = Table(title=results.study.title, caption="\n".join(notes(results)), caption_justify="left")
    for place, title in enumerate(columns(results)):
        table.add_column(title, justify="left" if place < len(results.study.axes) else "right", overflow="fold")
    for row in results.rows:
        table.add_row(*cells(results, row))
    return table


def _numbers(results: Results) -> list[str]:
    """The numbers of the table: those that are asked for, and measures that are one number."""
    lists = {name for row in results.rows for outcome in row.outcomes for name in outcome.lists}
    return list(dict.fromkeys([*results.numbers, *(name for name in results.study.measures if name not in lists)]))


def _known(results: Results) -> list[str]:
    """Further numbers of the log that people are shown."""
    have = {name for row in results.rows for outcome in row.complete for name in outcome.numbers}
    return [name for name in results.names if name in have]


def _spread(found: Interval | None, form: str) -> str:
    if found is None:
        return ""
    mean = form.format(found.mean).replace("%", " %")
    if found.deviation is None:
        return mean
    return f"{form.format(found.mean).rstrip('%')} ± {form.format(found.deviation).replace('%', ' %')}"


def _parts(found: Interval | None) -> list[float | int | str]:
    if found is None:
        return ["", "", 0]
    return [found.mean, "" if found.deviation is None else found.deviation, found.count]


def _count(row: Row) -> str:
    done, asked = len(row.complete), len(row.outcomes)
    return str(done) if done == asked else f"{done} of {asked}"


def _missing(outcome: Outcome) -> str:
    return f"failed: {outcome.reason}" if outcome.why else "not complete yet"


def _short(count: int) -> str:
    """A number with three digits and its power of thousand: `41.3 M`."""
    for power, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= power:
            return f"{count / power:.3g} {unit}"
    return str(count)


def _papers(results: Results) -> list[Published]:
    return [results.study.paper[row.cell.name] for row in results.rows if row.cell.name in results.study.paper]


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"
