"""`python -m resnet_jax serve RUN_OR_EXPORT`"""

import importlib.util
import logging
import warnings
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from resnet_jax.config import AS_PUBLISHED, PresetChange, ServeConfig
from resnet_jax.display import plain_console

_PACKAGES = {
    "starlette": "starlette",
    "uvicorn": "uvicorn",
    "python_multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
}
"""What a server needs that this package does not bring along: modules, and how pip calls them."""


def serve(
    network: Positional[Annotated[str, tyro.conf.arg(metavar="[RUN]")]] = "",
    config: Annotated[ServeConfig, tyro.conf.arg(name="")] = ServeConfig(),  # noqa: B008
    weights: str | None = None,
    model: str | None = None,
    checkpoint: Literal["last", "best"] = "last",
    exif: bool = False,
    entry: str | None = None,
    prefix: str | None = None,
    preset: PresetChange = AS_PUBLISHED,
) -> None:
    """Serve a network over HTTP, with a page where one drops a photograph.

    Its answers are those of `predict`. SIGTERM or Ctrl-C answers what was accepted and ends. There is no TLS and no
    authentication: docs/serve.md says what to put before it, and lists all paths and statuses.

    Args:
        network: The folder that `train.py --workdir` filled; a folder that `export` wrote; a weight file; or the name
            of a network whose weights are published, such as resnet50 or resnet50:IMAGENET1K_V1.
        weights: A published set such as IMAGENET1K_V2 (with --model), a weight file, or a repository of the Hugging
            Face hub such as timm/resnet50.a1_in1k.
        model: The network that the weights are for; without it the one that a file's keys and shapes are those of.
        checkpoint: Of a run: the newest, or the one with the best top-1 accuracy.
        exif: Without a run: turn photographs upright, as EXIF says how the camera was held. A run's config says so.
        entry: With --weights: which part of a training checkpoint to take, such as model_ema.
        prefix: With --weights: take the keys that begin with it, such as module.encoder_q., without it.
        preset: Without a run: how images are prepared, where it is not as the weights say, or they say nothing.
    """
    from resnet_jax.errors import ConfigError

    if (not network) == (weights is None):
        raise ConfigError(
            "name one network: the folder of a run or of an export, a weight file or a published set such as "
            "resnet50:IMAGENET1K_V2; or --weights with --model"
        )
    if weights is None and (entry or prefix):
        raise ConfigError("--entry and --prefix are for --weights; name the file by --weights FILE")
    missing = [package for module, package in _PACKAGES.items() if not _is_installed(module)]
    if missing:
        raise ConfigError(f"serve needs the package {missing[0]}; install it with: pip install {' '.join(missing)}")

    from resnet_jax.run.network import load_network
    from resnet_jax.run.predictor import open_to_predict
    from resnet_jax.runtime.programs import remember_programs
    from resnet_jax.serve.app import Service
    from resnet_jax.serve.exported import is_export, open_export
    from resnet_jax.serve.opened import served_of
    from resnet_jax.serve.server import Server, address_of, bind, is_open_to_others

    exported = weights is None and is_export(network)
    if exported and (exif or model or preset != AS_PUBLISHED):
        raise ConfigError(
            f"{network} is an export, which says itself what it is; leave --exif, --model and --preset out"
        )
    listening = bind(config.host, config.port)  # nothing is loaded and compiled for a port that is taken
    with listening:
        if exported:
            served = served_of(open_export(Path(network)), config)
        elif weights is not None:
            served = served_of(
                load_network(weights, model, entry=entry, prefix=prefix, preset=preset), config, exif=exif
            )
        else:
            opened = open_to_predict(network, checkpoint, model, exif=exif, preset=preset)
            served = served_of(opened, config, exif=exif)
        console, address = plain_console(), address_of(listening)
        say = lambda text: console.print(text, soft_wrap=True)
        say(f"{served.title}: {len(served.class_names)} classes, {'with' if served.cam else 'without'} Grad-CAM")
        say(served.note)
        if is_open_to_others(listening):
            say("warning: other machines can reach it, and there is no authentication; put a proxy before it")
        sizes = ", ".join(map(str, served.programs[0].sizes))
        count = sum(len(program.rows) * len(program.sizes) for program in served.programs)
        say(f"compiling {count} program{'s' if count > 1 else ''}, for batches of {sizes}")
        remember_programs()
        _keep_quiet()
        service = Service(served, config, lambda text: say(f"{text}: {address}"))
        Server(service, say).run([listening])
        if service.failure is not None:
            raise service.failure
        say(f"{service.answered} requests were answered")


def _keep_quiet() -> None:
    """Malformed uploads, which anybody can send, do not fill the log. The client is told what is wrong."""
    for name in ("PIL", "python_multipart"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module="PIL")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # the name is taken, by nothing
        return False
