"""The child process of `runs.py`: does one job of a study.

    python -m resnet_jax.studies.child JSON

The JSON object has the arguments of `opened.open_study`, which name one cell, and `job` and `beside`, the seeds of a
`runs.Job` and how they are trained.
"""

import json
import os
import sys
import threading
from typing import Any

from resnet_jax.errors import EXIT_PREEMPTED, Preempted
from resnet_jax.runtime.garbage import collect_seldom
from resnet_jax.runtime.xla_flags import set_xla_flags


def main(asked: dict[str, Any]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    collect_seldom()
    set_xla_flags()
    from resnet_jax.display import plain_console
    from resnet_jax.runtime.programs import remember_programs
    from resnet_jax.studies.opened import open_study
    from resnet_jax.studies.runs import Job, Work, run_here

    remember_programs()
    seeds, beside = tuple(asked.pop("job")), asked.pop("beside")
    opened = open_study(**asked)
    (cell,) = opened.cells
    work = Work(opened.study, opened.workdir, opened.seeds, plain_console(quiet=True))
    try:
        run_here(work, [Job(cell, seeds, beside)])
    except Preempted:
        sys.exit(EXIT_PREEMPTED)


def _end_with_parent() -> None:
    """The parent holds the other end of standard input. Without a parent, nobody would look after this run, and the
    command that goes on with the study would meet it."""
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
