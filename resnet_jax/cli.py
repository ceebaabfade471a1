"""`python -m resnet_jax COMMAND`: the table of commands. Training is `train.py`."""

import sys
from collections.abc import Callable, Sequence

import tyro

from resnet_jax.commands.diff import diff
from resnet_jax.commands.evaluate import evaluate
from resnet_jax.commands.models import models
from resnet_jax.commands.predict import predict
from resnet_jax.errors import ResnetJaxError

COMMANDS: dict[str, Callable[..., None]] = {
    "diff": diff,
    "evaluate": evaluate,
    "models": models,
    "predict": predict,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command that the arguments name. A mistake of the user ends with its text and exit status 1."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="python -m resnet_jax",
            description="ResNets in JAX. To train one: python train.py --help",
            args=arguments,
        )
    except ResnetJaxError as error:
        sys.exit(f"error: {error}")
