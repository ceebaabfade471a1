"""`python -m resnet_jax COMMAND`: the table of commands. Training is `train.py`."""

import sys
from collections.abc import Callable, Sequence

import tyro

from resnet_jax.commands.benchmark import benchmark
from resnet_jax.commands.convert import convert
from resnet_jax.commands.data_info import data_info
from resnet_jax.commands.data_prepare import data_prepare
from resnet_jax.commands.data_show import data_show
from resnet_jax.commands.diff import diff
from resnet_jax.commands.evaluate import evaluate
from resnet_jax.commands.memory import memory
from resnet_jax.commands.models import models
from resnet_jax.commands.parity import parity
from resnet_jax.commands.predict import predict
from resnet_jax.display import print_anything
from resnet_jax.errors import ResnetJaxError
from resnet_jax.xla_flags import set_xla_flags

Commands = dict[str, Callable[..., None]]

DATA: Commands = {
    "info": data_info,
    "prepare": data_prepare,
    "show": data_show,
}


def data() -> None:
    """Data sets: info, prepare, show; `data --help` says more."""


COMMANDS: Commands = {
    "benchmark": benchmark,
    "convert": convert,
    "data": data,
    "diff": diff,
    "evaluate": evaluate,
    "memory": memory,
    "models": models,
    "parity": parity,
    "predict": predict,
}
GROUPS: dict[str, Commands] = {"data": DATA}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command that the arguments name. A mistake of the user ends with its text and exit status 1."""
    set_xla_flags()
    print_anything(sys.stdout, sys.stderr)
    arguments = sys.argv[1:] if arguments is None else arguments
    commands, prog = COMMANDS, "python -m resnet_jax"
    description: str | None = "ResNets in JAX. To train one: python train.py --help"
    if arguments and arguments[0] in GROUPS:
        group, *arguments = arguments
        commands, prog, description = GROUPS[group], f"{prog} {group}", None
    try:
        tyro.extras.subcommand_cli_from_dict(commands, prog=prog, description=description, args=arguments)
    except ResnetJaxError as error:
        sys.exit(f"error: {error}")
