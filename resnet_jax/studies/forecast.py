"""What would run, and about how long it would take: `study --dry-run`."""

from dataclasses import dataclass

from resnet_jax.run.evaluate import make_evaluations
from resnet_jax.studies.cells import Cell
from resnet_jax.studies.opened import Opened
from resnet_jax.studies.results import Outcome, costs_of, gather
from resnet_jax.studies.timing import alone
from resnet_jax.training.optim import plan_steps

PASSES = 3
"""Multiply-adds of a training step, in forward passes: forward, and two for the gradients."""


@dataclass(frozen=True)
class Effort:
    """What a run of a cell computes.

    Attributes:
      steps: updates.
      macs: multiply-adds of all its steps and evaluations.
    """

    steps: int
    macs: float


def effort_of(cell: Cell) -> Effort:
    """Reads how many images there are, and none of them."""
    from resnet_jax import data

    config, task = cell.config, cell.task()
    plan = plan_steps(config, len(data.load_source(config.data, config.data.train_split)))
    lengths = [len(source) for source in make_evaluations(config, task).sources]
    seen = sum(lengths[number] for step in range(1, plan.total + 1) for number in plan.evaluations_due(step))
    _, macs = costs_of(config, cell.network)
    return Effort(plan.total, float(macs) * (PASSES * plan.total * config.batch_size + seen))


def forecast(opened: Opened, processes: int) -> str:
    """The cells, which of their runs are complete, and how long the rest may take, in words.

    Raises:
      DataError: the data set cannot be read.
    """
    rows = gather(opened.study, opened.cells, opened.seeds, opened.workdir).rows
    efforts = {row.cell.name: effort_of(row.cell) for row in rows}
    done = [(efforts[row.cell.name], one) for row in rows for one in row.complete]
    rate, how = _rate_of_done(done) if done else _rate_of_a_step(opened, efforts)
    lines, total = [f"{opened.study.title}: {len(rows)} cells, {len(opened.seeds)} seeds, in {opened.workdir}"], 0.0
    width = max(len(row.cell.name) for row in rows)
    for row in rows:
        effort, left = efforts[row.cell.name], len(row.outcomes) - len(row.complete)
        seconds = effort.macs / rate
        total += left * seconds
        state = "complete" if not left else f"{left} to run, about {_time(seconds)} each"
        lines.append(f"  {row.cell.name:<{width}}  {effort.steps:,} steps  {state}")
    shared = f" ({processes} at a time share the machine, so it may be less)" if processes > 1 else ""
    lines += [f"About {_time(total)} in all, without compiling{shared}.", how]
    return "\n".join(lines)


def _rate_of_done(done: list[tuple[Effort, Outcome]]) -> tuple[float, str]:
    seconds = sum(outcome.numbers["seconds"] for _, outcome in done)
    rate = sum(effort.macs for effort, _ in done) / seconds
    runs = f"{len(done)} complete run{'s' if len(done) > 1 else ''}"
    return rate, f"A forecast by arithmetic alone: {rate / 1e9:.3g} GMAC/s, as in the {runs} of this folder."


def _rate_of_a_step(opened: Opened, efforts: dict[str, Effort]) -> tuple[float, str]:
    """From the cell in the middle: cells of other shapes are faster or slower for the same arithmetic."""
    ordered = sorted(opened.cells, key=lambda cell: efforts[cell.name].macs)
    cell = ordered[(len(ordered) - 1) // 2]
    turn, compiling = alone(cell)
    turn(1)
    seconds = turn(3)
    _, macs = costs_of(cell.config, cell.network)
    rate = PASSES * macs * cell.config.batch_size / seconds
    return rate, (
        f"A forecast by arithmetic alone: {rate / 1e9:.3g} GMAC/s, from three steps of {cell.name} that were timed "
        f"here ({1000 * seconds:.0f} ms each; it took {compiling:.0f} s to compile). Other programs on the machine, "
        "and cells of other shapes, change it."
    )


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
