"""What a study says of its results, each with its interval; and honestly that nothing is shown, where it is so."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from resnet_jax.logs.shown import Shown
from resnet_jax.studies.numbers import Interval, interval, slope
from resnet_jax.studies.results import Results, Row
from resnet_jax.studies.study import Difference, Slope


@dataclass(frozen=True)
class Claim:
    """One sentence.

    Attributes:
      interval: of what it speaks of, in the unit of the number; None where too little is there to say anything.
    """

    text: str
    interval: Interval | None


def claims(results: Results) -> list[Claim]:
    """The sentences of `Study.compare`, for the cells that these results hold."""
    found: list[Claim] = []
    for said in results.study.compare:
        found += _slopes(results, said) if isinstance(said, Slope) else _difference(results, said)
    return found


def _slopes(results: Results, said: Slope) -> Iterator[Claim]:
    """One for each combination of the other axes."""
    lines: dict[tuple[str, ...], dict[float, Row]] = {}
    for row in results.rows:
        values = dict(row.cell.values)
        place = float(values.pop(said.along))
        lines.setdefault(tuple(values.values()), {})[place] = row
    shown = results.shown(said.number)
    for others, rows in lines.items():
        if len(rows) < 2:
            continue
        who = "/".join(others) or "all cells"
        what = f"{who}: {shown.label} by {said.along}"
        by_seed = _points(rows, said.number)
        missing = len(rows) * max((len(row.outcomes) for row in rows.values()), default=0) - sum(
            len(points) for points in by_seed.values()
        )
        slopes = [said.unit * slope(list(points), list(points.values())) for points in by_seed.values()
                  if len(points) == len(rows)]  # fmt: skip
        if not slopes:
            yield Claim(f"{what}: no seed has all {len(rows)} cells, so nothing is said.", None)
            continue
        found = interval(slopes)
        ends = f"{min(rows):g} to {max(rows):g}"
        verdict = {1: f"It rises with {said.along}", -1: f"It falls with {said.along}"}.get(found.sign)
        per = f" for each {said.unit:g} of {said.along}"
        yield Claim(f"{what}, {ends}: {_amount(found, shown, per)}. {_verdict(found, verdict, missing)}", found)


def _points(rows: Mapping[float, Row], number: str) -> dict[int, dict[float, float]]:
    """For each seed, the number by the place on the axis."""
    by_seed: dict[int, dict[float, float]] = {}
    for place, row in sorted(rows.items()):
        for seed, value in row.by_seed(number).items():
            by_seed.setdefault(seed, {})[place] = value
    return by_seed


def _difference(results: Results, said: Difference) -> Iterator[Claim]:
    if said.of not in results.by_name or said.minus not in results.by_name:
        return
    shown = results.shown(said.number)
    rows = results.by_name[said.of], results.by_name[said.minus]
    of, minus = (row.by_seed(said.number) for row in rows)
    both = [seed for seed in of if seed in minus]
    what = f"{said.of} minus {said.minus}: {shown.label}"
    if not both:
        yield Claim(f"{what}: no seed has both cells, so nothing is said.", None)
        return
    found = interval([of[seed] - minus[seed] for seed in both])
    verdict = {1: f"{said.of} has the higher one", -1: f"{said.of} has the lower one"}.get(found.sign)
    missing = max(len(row.outcomes) for row in rows) - len(both)
    yield Claim(f"{what} {_amount(found, shown)}. {_verdict(found, verdict, missing)}", found)


def _amount(found: Interval, shown: Shown, per: str = "") -> str:
    """`+1.20 points (95 % interval +0.80 to +1.60, 3 seeds)`."""
    scale, unit, form = (100, " points", "{:+.2f}") if shown.is_fraction else (1, "", "{:+.4g}")
    text = form.format(scale * found.mean) + unit + per
    if found.half is None:
        return text
    ends = " to ".join(form.format(scale * end) for end in (found.low, found.high))
    return f"{text} (95 % interval {ends}, {found.count} seeds)"


def _verdict(found: Interval, verdict: str | None, missing: int) -> str:
    left_out = " Runs that are missing or failed were left out." if missing > 0 else ""
    if found.half is None:
        return f"One seed has no interval, so nothing is claimed.{left_out}"
    if verdict is None:
        return f"The interval holds 0: the evidence does not suffice to say which way it goes.{left_out}"
    return f"{verdict}.{left_out}"
