"""`python -m resnet_jax study STUDY.py`"""

import inspect
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from resnet_jax.display import plain_console
from resnet_jax.errors import ConfigError


@dataclass(frozen=True)
class Arguments:
    file: Positional[Path]
    """The study file, such as studies/digits_depth.py."""
    workdir: Path | None = None
    """Where the runs, the table, the pictures and the page go; by default runs/ and the name of the file. Runs that are
    complete are not trained again, and one that was stopped goes on."""
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="CELL")] = ()
    """Only these cells, such as residual/56 or 'plain/*'."""
    seeds: tuple[int, ...] | None = None
    """Train each cell with each of these seeds; by default those of the study."""
    scale: str | None = None
    """The size of the study, by a name from its `scales`; by default the study as it is."""
    processes: int = 1
    """Runs that are trained at the same time, each in a process of its own."""
    gpus: tuple[str, ...] = ()
    """One process for each of these GPUs, by their numbers: --gpus 0 1 2 3."""
    side_by_side: Literal["never", "measured", "always"] = "never"
    """Train the seeds of a cell in one program: wherever a short measurement finds it faster, or always."""
    dry_run: bool = False
    """Train nothing: say what would run, and about how long it would take."""


def study(arguments: Sequence[str]) -> None:
    """Train the runs of a study, and write a table, pictures and a page about them.

    Further options are those of `train`, and hold for all runs: --data.name folder:photos --epochs 3.

    Exit status: as of `train`; 1 also where a run has failed. The others go on, and the table says which.
    """
    asked, options = tyro.cli(
        Arguments,
        args=arguments,
        prog="resnet_jax study",
        description=inspect.cleandoc(study.__doc__ or ""),
        return_unknown_args=True,
    )
    if asked.processes < 1 or (asked.gpus and asked.processes != 1):
        raise ConfigError(
            f"--processes = {asked.processes} must be at least 1, and cannot be combined with --gpus, which has one "
            "process for each GPU"
        )
    from resnet_jax.runtime.programs import remember_programs
    from resnet_jax.studies.claims import claims
    from resnet_jax.studies.forecast import forecast
    from resnet_jax.studies.opened import check_data, open_study, save_study
    from resnet_jax.studies.results import Results, check_complete, gather
    from resnet_jax.studies.runs import Work, jobs_of, places_of, run_here, run_in_processes
    from resnet_jax.studies.table import on_screen
    from resnet_jax.studies.written import write_all, write_tables

    several = asked.processes > 1 or bool(asked.gpus)
    if several and not asked.dry_run:
        import jax

        jax.config.update("jax_platforms", "cpu")  # this process trains nothing: the devices are for its children
    console = plain_console()
    workdir = str(asked.workdir or Path("runs") / asked.file.stem)
    opened = open_study(
        str(asked.file), workdir, options=options, only=asked.only, seeds=asked.seeds, scale=asked.scale
    )
    remember_programs()
    if asked.dry_run:
        console.print(forecast(opened, max(asked.processes, len(asked.gpus))), soft_wrap=True)
        return
    check_data(opened)
    command = shlex.join(["python", "-m", "resnet_jax", "study", *arguments])
    save_study(opened, command)

    def results() -> Results:
        return gather(opened.study, opened.cells, opened.seeds, opened.workdir)

    work = Work(
        *(opened.study, opened.workdir, opened.seeds, console, opened.arguments),
        after=lambda: write_tables(results(), opened.workdir),
    )
    jobs = jobs_of(opened, asked.side_by_side)
    try:
        if several:
            run_in_processes(work, jobs, places_of(asked.processes, asked.gpus))
        else:
            run_here(work, jobs)
    finally:
        found = results()
        page = write_all(found, opened, command)
    console.print(on_screen(found))
    for claim in claims(found):
        console.print(f"- {claim.text}", soft_wrap=True)
    console.print(f"The page about all of it is {page}; the table is beside it as Markdown and CSV", soft_wrap=True)
    check_complete(found)
