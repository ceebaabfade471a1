"""Runs the cells of a study: one after the other, seeds side by side, or in several processes."""

import json
import os
import queue
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from resnet_jax.errors import EXIT_PREEMPTED, Preempted, ResnetJaxError
from resnet_jax.run.train import train
from resnet_jax.runtime.mesh import make_mesh
from resnet_jax.studies.cells import Cell
from resnet_jax.studies.opened import Opened
from resnet_jax.studies.results import (
    Finished,
    folder_of,
    forget_failure,
    is_complete,
    measured,
    remember_failure,
    take_measures,
)
from resnet_jax.studies.seeds import Meeting
from resnet_jax.studies.study import Study
from resnet_jax.studies.timing import is_faster_beside
from resnet_jax.survival.signals import Asked, StopRequest

MEMORY = 0.9
"""Share of a GPU's memory that JAX takes in several processes together. By itself it takes 0.75 in each."""
Beside = Literal["never", "measured", "always"]


@dataclass(frozen=True)
class Job:
    """Runs of one cell that one process does.

    Attributes:
      beside: whether several seeds are trained by one program: `"never"`, where it is `"measured"` to be faster, or
        `"always"`.
    """

    cell: Cell
    seeds: tuple[int, ...]
    beside: Beside = "never"

    @property
    def title(self) -> str:
        return f"{self.cell.name}, seed{'s' * (len(self.seeds) > 1)} {', '.join(map(str, self.seeds))}"


@dataclass(frozen=True)
class Work:
    """What is to be done with a study, and where.

    Attributes:
      seeds: all seeds of the study, of which a job has some.
      console: where progress is shown.
      arguments: from which a child process makes the same study again, see `child.py`.
      after: called after each job.
    """

    study: Study
    workdir: Path
    seeds: tuple[int, ...]
    console: Console
    arguments: Mapping[str, Any] = field(default_factory=dict)
    after: Callable[[], None] = lambda: None


def jobs_of(opened: Opened, beside: Beside) -> list[Job]:
    """What is left to do: runs that are not complete, or that lack a measure of the study."""
    jobs = []
    for cell in opened.cells:
        left = tuple(seed for seed in opened.seeds if not _is_done(opened, cell, seed))
        whole = beside != "never" and len(left) > 1
        jobs += [Job(cell, left, beside)] if whole else [Job(cell, (seed,)) for seed in left]
    return jobs


def _is_done(opened: Opened, cell: Cell, seed: int) -> bool:
    folder, study = folder_of(opened.workdir, cell, seed), opened.study
    wanted = {name for name in study.measures if study.measure(name).each_seed or seed == opened.seeds[0]}
    return is_complete(folder) and wanted <= measured(folder).keys()


def run_here(work: Work, jobs: Sequence[Job]) -> None:
    """Does the jobs one after the other in this process. A run that fails is remembered in its folder.

    Raises:
      Preempted: SIGTERM or SIGINT. The run is saved, and the same command goes on.
    """
    with StopRequest(make_mesh()) as stop:  # between two runs; a run that is going on takes the signals itself
        for number, job in enumerate(jobs, start=1):
            work.console.print(f"== {number} of {len(jobs)}: {job.title}")
            _run_job(work, job, stop)
            work.after()


def _run_job(work: Work, job: Job, stop: Asked) -> None:
    if job.beside == "always" or (job.beside == "measured" and _measured_faster(work, job)):
        _run_beside(work, job)
        return
    for seed in job.seeds:
        if stop.asked():
            raise Preempted(f"stopped before {job.cell.name}, seed {seed}; run the same command again to continue")
        _run_one(work, job.cell, seed, work.console)


def _measured_faster(work: Work, job: Job) -> bool:
    try:
        faster, measurement = is_faster_beside(job.cell, len(job.seeds))
    except Exception as error:  # several runs may need more memory than there is; or the cell itself is broken
        faster, measurement = False, f"{type(error).__name__} while a common step was timed"
    work.console.print(f"{measurement}: {'side by side' if faster else 'one after the other'}", soft_wrap=True)
    return faster


def _run_one(work: Work, cell: Cell, seed: int, console: Console, **options: Any) -> None:
    """Trains a run and takes its measures."""
    folder = folder_of(work.workdir, cell, seed)
    with _failures_remembered(folder, console):
        forget_failure(folder)
        train(cell.seeded(seed), folder, task=cell.task(), console=console, **options)
    if is_complete(folder):
        with _failures_remembered(folder, console):
            take_measures(work.study, Finished(cell, seed, folder), first=seed == work.seeds[0])


@contextmanager
def _failures_remembered(folder: Path, console: Console) -> Iterator[None]:
    """A failure ends this run and not the study."""
    try:
        yield
    except Preempted:
        raise
    except Exception as error:
        known = isinstance(error, ResnetJaxError)
        why = str(error) if known else f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
        remember_failure(folder, why)
        console.print(f"failed: {why}\nThe other runs go on.", soft_wrap=True)


def _run_beside(work: Work, job: Job) -> None:
    """Trains several seeds, each in a thread of its own, by one program."""
    stopped: list[Preempted] = []
    quiet = Console(quiet=True)

    def run(meeting: Meeting, seed: int) -> None:
        console = work.console if seed == job.seeds[0] else quiet
        with meeting.attended_by(seed) as beside:
            try:
                _run_one(work, job.cell, seed, console, beside=beside)
            except Preempted as stop:
                stopped.append(stop)

    with StopRequest(make_mesh()) as stop:
        meeting = Meeting(job.seeds, stop)
        threads = [threading.Thread(target=run, args=(meeting, seed), name=f"seed{seed}") for seed in job.seeds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if stopped:
        raise stopped[0]


def run_in_processes(work: Work, jobs: Sequence[Job], places: Sequence[dict[str, str]]) -> None:
    """Does the jobs in child processes, one job in each, as many at a time as there are places.

    A child ends when this process does, in whatever way.

    Args:
      places: what each place adds to the environment of its children, such as the GPU that they may see.

    Raises:
      Preempted: SIGTERM or SIGINT. The children have saved their runs, and the same command goes on.
    """
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    children: set[subprocess.Popen[bytes]] = set()
    guard = threading.Lock()
    stopped = threading.Event()

    def serve(place: dict[str, str]) -> None:
        while not stopped.is_set():
            try:
                job = waiting.get_nowait()
            except queue.Empty:
                return
            with guard:
                if stopped.is_set():
                    return
                child = _start(work, job, place)
                children.add(child)
            status = child.wait()
            with guard:
                children.discard(child)
                _tell(work, job, status)
                if status == EXIT_PREEMPTED:
                    stopped.set()
                elif not stopped.is_set():
                    work.after()

    with StopRequest(make_mesh()) as stop:
        threads = [threading.Thread(target=serve, args=(place,)) for place in places[: len(jobs)]]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.1)
            if stop.asked() and not stopped.is_set():
                stopped.set()
                with guard:
                    for child in children:
                        child.terminate()
    if stopped.is_set():
        raise Preempted("the runs that were going on are saved; run the same command again to continue")


def _start(work: Work, job: Job, place: dict[str, str]) -> "subprocess.Popen[bytes]":
    work.console.print(f"== begins: {job.title}")
    only = {"only": [job.cell.name]}  # so that the child looks at this cell alone
    asked = json.dumps({**work.arguments, **only, "job": job.seeds, "beside": job.beside})
    # In a session of its own: a Ctrl-C reaches this process alone, which passes it on once.
    return subprocess.Popen(
        [sys.executable, "-m", "resnet_jax.studies.child", asked],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, **place},
        start_new_session=True,
    )


def _tell(work: Work, job: Job, status: int) -> None:
    """Says how a child ended; remembers what it could not remember itself."""
    for seed in job.seeds:
        folder = folder_of(work.workdir, job.cell, seed)
        if status not in (0, EXIT_PREEMPTED) and not is_complete(folder):
            remember_failure(folder, f"its process ended with status {status}")
    words = {0: "ended", EXIT_PREEMPTED: "stopped, and saved"}.get(status, f"failed with status {status}")
    work.console.print(f"== {words}: {job.title}")


def places_of(processes: int, gpus: Sequence[str]) -> list[dict[str, str]]:
    """The environments of child processes: one for each GPU, or as many as asked for, which share a GPU's memory."""
    share = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{MEMORY / processes:.3f}"}
    return [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus] or [share for _ in range(processes)]
