"""`resnet_jax COMMAND`, or `python -m resnet_jax COMMAND`: the table of commands."""

import os
import platform
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version

import tyro

from resnet_jax import __version__
from resnet_jax.commands.align import align
from resnet_jax.commands.anomalies_fit import anomalies_fit
from resnet_jax.commands.anomalies_score import anomalies_score
from resnet_jax.commands.attention import attention
from resnet_jax.commands.benchmark import benchmark
from resnet_jax.commands.compare import compare
from resnet_jax.commands.convert import convert
from resnet_jax.commands.data_check import data_check
from resnet_jax.commands.data_info import data_info
from resnet_jax.commands.data_prepare import data_prepare
from resnet_jax.commands.data_show import data_show
from resnet_jax.commands.diff import diff
from resnet_jax.commands.duplicates import duplicates
from resnet_jax.commands.enroll import enroll
from resnet_jax.commands.evaluate import evaluate
from resnet_jax.commands.export import export
from resnet_jax.commands.features import features
from resnet_jax.commands.identify import identify
from resnet_jax.commands.maps import maps
from resnet_jax.commands.memory import memory
from resnet_jax.commands.models import models
from resnet_jax.commands.neighbours import neighbours
from resnet_jax.commands.parity import parity
from resnet_jax.commands.predict import predict
from resnet_jax.commands.probe import probe
from resnet_jax.commands.prune import prune
from resnet_jax.commands.quantize import quantize
from resnet_jax.commands.report import report
from resnet_jax.commands.serve import serve
from resnet_jax.commands.similarity import similarity
from resnet_jax.commands.verify import verify
from resnet_jax.display import print_anything
from resnet_jax.errors import ResnetJaxError
from resnet_jax.runtime.garbage import collect_seldom
from resnet_jax.runtime.xla_flags import set_xla_flags

Commands = dict[str, Callable[..., None]]

ANOMALIES: Commands = {
    "fit": anomalies_fit,
    "score": anomalies_score,
}
DATA: Commands = {
    "check": data_check,
    "info": data_info,
    "prepare": data_prepare,
    "show": data_show,
}


def anomalies() -> None:
    """What is unlike good images: fit, score; `anomalies --help` says more."""


def data() -> None:
    """Data sets: check, info, prepare, show; `data --help` says more."""


def train() -> None:
    """Train a network, as `python train.py` does; `train --help` says more."""


def study() -> None:
    """Train the runs of a study and compare them; `study --help` says more."""


COMMANDS: Commands = {
    "align": align,
    "anomalies": anomalies,
    "attention": attention,
    "benchmark": benchmark,
    "compare": compare,
    "convert": convert,
    "data": data,
    "diff": diff,
    "duplicates": duplicates,
    "enroll": enroll,
    "evaluate": evaluate,
    "export": export,
    "features": features,
    "identify": identify,
    "maps": maps,
    "memory": memory,
    "models": models,
    "neighbours": neighbours,
    "parity": parity,
    "predict": predict,
    "probe": probe,
    "quantize": quantize,
    "prune": prune,
    "report": report,
    "serve": serve,
    "similarity": similarity,
    "study": study,
    "train": train,
    "verify": verify,
}
GROUPS: dict[str, Commands] = {"anomalies": ANOMALIES, "data": DATA}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command that the arguments name. A mistake of the user ends with its text and exit status 1."""
    collect_seldom()
    set_xla_flags()
    print_anything(sys.stdout, sys.stderr)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments == ["--version"]:
        print(f"resnet_jax {__version__} (jax {version('jax')}, Python {platform.python_version()})")
        return None
    if arguments[:1] in (["train"], ["study"]):  # they take the fields of a config too, and end as a run does
        from resnet_jax.commands.study import study as run_study
        from resnet_jax.commands.train import exit_as_a_run, train_and_exit

        if arguments[0] == "train":
            return train_and_exit(arguments[1:], ["-m", "resnet_jax", "train"])
        return exit_as_a_run(partial(run_study, arguments[1:]))
    commands, prog = COMMANDS, "resnet_jax"
    description: str | None = f"ResNets in JAX, version {__version__}."
    if arguments and arguments[0] in GROUPS:
        group, *arguments = arguments
        commands, prog, description = GROUPS[group], f"{prog} {group}", None
    try:
        tyro.extras.subcommand_cli_from_dict(commands, prog=prog, description=description, args=arguments)
    except ResnetJaxError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:  # `resnet_jax models | head`: the reader has closed the pipe
        # Python flushes stdout once more at exit. Into the closed pipe that would print a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
