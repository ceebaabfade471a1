"""Train a network: `python train.py [CONFIG.py] [--field value ...] [--workdir DIR]`, or `resnet_jax train ...`.

Without a config file, `configs/digits.py` is used. The config may stand anywhere on the line. Every field of it can be
overridden. If DIR holds a checkpoint of the same config, the run continues. If it holds a complete run, nothing is
trained.

Exit status: 0 complete, 1 a mistake that the message explains, 2 wrong arguments, 70 crashed, 75 stopped by SIGTERM or
SIGINT after saving (the same command continues), 76 hung. See docs/reliability.md.
"""

import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from resnet_jax.config import Config
from resnet_jax.config_files import find_config, read_config_file
from resnet_jax.display import print_anything
from resnet_jax.errors import EXIT_CRASHED, EXIT_PREEMPTED, ConfigError, Preempted, ResnetJaxError
from resnet_jax.runtime.garbage import collect_seldom
from resnet_jax.runtime.hosts import Hosts, explain_lost_process, join
from resnet_jax.runtime.restart import run_with_restarts, without_flag
from resnet_jax.runtime.xla_flags import set_xla_flags

DEFAULT_CONFIG = Path(__file__).parents[2] / "configs" / "digits.py"


@dataclass(frozen=True)
class Arguments:
    # The options of the task that the config file names, not a subcommand for each task.
    config: Annotated[Config, tyro.conf.arg(name=""), tyro.conf.AvoidSubcommands]
    workdir: str
    """Where checkpoints, logs and results go, also gs://BUCKET/FOLDER. With several hosts, a folder that all hosts see.
    """
    hosts: Annotated[Hosts, tyro.conf.arg(name="")] = field(default_factory=Hosts)
    dry_run: Annotated[str, tyro.conf.arg(metavar="N|TARGET")] = ""
    """Train nothing and read no data: compile the step for N devices and say what memory, arithmetic and communication
    it takes. If this machine does not have N devices, N virtual devices of its CPU are used. You can also name devices
    that this machine does not have: `v5e:1`, `v5e:16x16`, `v4:2x2x1`, `v5p:4x4x4`, `v6e:8`, `h100:8`, `h100:64` (eight
    hosts), `a100:8`. Then it also says whether the step fits, its memory traffic, the least time that it takes, and
    what more devices would bring. That needs `pip install -e '.[aot-tpu]'` or `'.[aot-gpu]'`; docs/pods.md has an
    example.
    """
    compilation_cache: bool = True
    """Remember compiled programs in the user's cache directory, so that a restart need not compile again."""
    restart_on_failure: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Start again, up to N times, when the run crashes or hangs. It continues from its last checkpoint."""


def train(arguments: Sequence[str], program: Sequence[str]) -> None:
    """Does what a command line asks for.

    Args:
      program: how Python starts this program again: the path of a script, or `-m` and a module.
    """
    collect_seldom()
    given = arguments
    named, arguments = find_config(arguments)
    if named is None and not DEFAULT_CONFIG.is_file():
        raise ConfigError("no config was named; name the Python file that defines one: resnet_jax train CONFIG.py ...")
    path = named or DEFAULT_CONFIG
    default = Arguments(config=read_config_file(path), workdir=f"runs/{path.stem}")
    called = os.path.basename(program[0]) if len(program) == 1 else "resnet_jax train"
    prog = f"{called} {os.path.relpath(path)}"
    asked = tyro.cli(Arguments, default=default, args=arguments, prog=prog, description=__doc__)
    if named is None and ":" in asked.config.data.name:
        photos = os.path.relpath(DEFAULT_CONFIG.with_name("photos.py"))
        raise ConfigError(
            f"no config was named, and {os.path.relpath(path)} is for the digits: a small network for 8 x 8 grey "
            f"pixels, and {asked.config.data.name} is other data. Name a config for it, such as: "
            f"python train.py {photos} {shlex.join(arguments)}"
        )

    if asked.restart_on_failure:
        command = [sys.executable, *program, *without_flag(given)]
        sys.exit(run_with_restarts(command, asked.restart_on_failure))
    set_xla_flags()
    # The imports below take seconds, so the arguments are checked first.
    if asked.dry_run:
        from resnet_jax.cost.dry_run import dry_run
        from resnet_jax.tasks.table import settled

        print(dry_run(settled(asked.config), asked.dry_run, say=partial(print, file=sys.stderr, flush=True)))
        return
    from resnet_jax.runtime.programs import remember_programs

    if asked.compilation_cache:
        remember_programs()
    join(asked.hosts)
    from resnet_jax.run.train import train

    train(asked.config, asked.workdir)


def train_and_exit(arguments: Sequence[str], program: Sequence[str]) -> None:
    """Runs `train`, and ends with the exit status of each kind of end."""
    exit_as_a_run(partial(train, arguments, program))


def exit_as_a_run(command: Callable[[], None]) -> None:
    """Runs a command that trains, and ends with the exit status of each kind of end."""
    print_anything(sys.stdout, sys.stderr)
    try:
        command()
    except ResnetJaxError as error:
        sys.exit(f"error: {error}")
    except Preempted as stop:
        print(stop)
        sys.exit(EXIT_PREEMPTED)
    except BrokenPipeError:  # `train.py --help | head`: the reader has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        traceback.print_exc()
        explain_lost_process(error)
        sys.exit(EXIT_CRASHED)
