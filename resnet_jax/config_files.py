"""Configs from files, from the command line, and in a run's folder.

A config file is Python by choice: it is executed. Run only config files that you trust.
"""

import contextlib
import dataclasses
import difflib
import io
import json
import re
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
from etils import epath

from resnet_jax import config as schema
from resnet_jax.config import Config
from resnet_jax.config.checked import differences, flat, from_dict
from resnet_jax.errors import ConfigError, unknown_name
from resnet_jax.files import open_folder, write_atomically

FILE_NAME = "config.json"
T = TypeVar("T")
# Fields that may change when a run is continued, since they do not change what is computed from the same data.
FREE = (
    *("checkpoint.keep_last", "checkpoint.keep_best", "checkpoint.on_error", "on_non_finite", "watchdog_seconds"),
    *("accumulate", "optim.shard_state", "model.remat", "data.max_broken_fraction"),
)
MOVED_TO_AUGMENT = ("random_resized_crop", "crop_min_area", "shift_pixels", "flip")
"""Fields that older runs saved in `data`. They are now fields of `data.augment`."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Runs the Python file at `path`, takes its `config`, and applies overrides such as `["--optim.base-lr", "0.2"]`.

    Raises:
      ConfigError: no such file, no `config` in it, an unknown or mistyped field (with the near names), or a value out
        of its range.
    """
    return override(read_config_file(path), overrides)


def read_config_file(path: str | Path) -> Config:
    """The `config` that the Python file at `path` defines. Raises `ConfigError` as `load_config` does."""
    return defined_in(path, "config", Config)


def defined_in(path: str | Path, name: str, cls: type[T]) -> T:
    """The object of class `cls` that the Python file at `path` defines under `name`.

    Raises:
      ConfigError: no such file, nothing of that name and class in it, or an error while it runs.
    """
    path = Path(path)
    if not path.is_file():
        near = difflib.get_close_matches(path.stem, [p.stem for p in path.parent.glob("*.py")], cutoff=0.5)
        hint = f" Did you mean {path.with_stem(near[0])}?" if near else ""
        raise ConfigError(
            f"{name} file {path} does not exist; give the path of a Python file that defines `{name}`.{hint}"
        )
    try:
        namespace = runpy.run_path(str(path))
    except TypeError as error:
        raise ConfigError(f"{path}: {_explain(error)}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (SyntaxError, ValueError) as error:  # also bytes that are no text
        raise ConfigError(f"{path} is no Python file that can be read: {error}. Correct it") from error
    value = namespace.get(name)
    if not isinstance(value, cls):
        found = "nothing of that name" if value is None else f"a {type(value).__name__}"
        raise ConfigError(f"{path} must define `{name} = resnet_jax.{cls.__name__}(...)`; it defines {found}")
    return value


def find_config(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The config file that a command line names, wherever it stands, and the rest of the line.

    Raises:
      ConfigError: the command line names several.
    """
    # A word is the config file if it is not the value of the option before it. Flags (`--flip`, `--no-flip`) take none.
    flags = {name for name, value in flat(dataclasses.asdict(Config())).items() if isinstance(value, bool)}
    found = []
    for place, word in enumerate(arguments):
        before = arguments[place - 1] if place else ""
        *path, name = before.removeprefix("--").replace("-", "_").split(".")
        is_flag = ".".join([*path, name.removeprefix("no_")]) in {*flags, "compilation_cache"}
        takes_value = before.startswith("-") and "=" not in before and not is_flag
        if not word.startswith("-") and not takes_value and (place == 0 or word.endswith(".py")):
            found.append(place)
    if len(found) > 1:
        raise ConfigError(
            f"several config files are named, {', '.join(arguments[place] for place in found)}; there can be one. "
            "Leave out the others"
        )
    rest = [word for place, word in enumerate(arguments) if place not in found]
    return (Path(arguments[found[0]]) if found else None), rest


def override(config: Config, arguments: Sequence[str]) -> Config:
    """Applies command-line overrides. Raises `ConfigError` with the text and the suggestions of the parser."""
    if not arguments:
        return config
    printed = io.StringIO()  # tyro prints its suggestions and exits: the text becomes the text of the error
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
            return tyro.cli(tyro.conf.AvoidSubcommands[Config], default=config, args=list(arguments))
    except SystemExit as stop:
        raise ConfigError(f"overrides {list(arguments)} were refused:\n{printed.getvalue().strip()}") from stop


def save_config(config: Config, workdir: epath.PathLike) -> None:
    """Writes `config.json` into a run's folder."""
    write_atomically(open_folder(workdir) / FILE_NAME, json.dumps(dataclasses.asdict(config), indent=2) + "\n")


def saved_config(workdir: epath.PathLike) -> Config:
    """The config that the run in `workdir` was made with.

    Raises:
      ConfigError: the folder holds no run, or a `config.json` that this version does not understand.
    """
    path = open_folder(workdir) / FILE_NAME
    if not path.is_file():
        raise ConfigError(
            f"{workdir} holds no run: there is no {path}. Train one with: python train.py --workdir {workdir}"
        )
    try:
        return from_dict(Config, _modernize(json.loads(path.read_text())))
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path} is not a config of this version: {error}") from error


def check_same_run(config: Config, workdir: epath.PathLike) -> bool:
    """Whether `workdir` already holds a run with this config. Fields in `FREE` may differ. False where it holds no run.

    A run that has saved nothing yet may begin anew with any config.

    Raises:
      ConfigError: `workdir` holds a run with another config; lists the differences.
    """
    if not (open_folder(workdir) / FILE_NAME).exists():
        return False
    different = changes_of_run(config, workdir)
    if different and not has_saved(workdir):
        return False
    if different:
        raise ConfigError(
            f"{workdir} holds a run with another config, and nothing in it was touched:\n  "
            + "\n  ".join(different)
            + "\nChoose another --workdir, or the saved values to continue that run."
        )
    return True


def changes_of_run(config: Config, workdir: epath.PathLike) -> list[str]:
    """How a config differs from that of the run in `workdir`, in fields that may not change; one line for each."""
    return [line for line in differences(saved_config(workdir), config) if line.partition(":")[0] not in FREE]


def has_saved(workdir: epath.PathLike) -> bool:
    """Whether the run has saved a checkpoint (also a damaged one) or has ended."""
    workdir = open_folder(workdir)
    checkpoints = workdir / "checkpoints"
    saved = checkpoints.iterdir() if checkpoints.is_dir() else ()
    return (workdir / "result.json").exists() or any("tmp" not in path.name for path in saved)


def _modernize(values: dict[str, Any]) -> dict[str, Any]:
    """The values of an older `config.json`, under the names that the fields have now."""
    if "label_smoothing" in values.get("optim", {}):  # now a field of the task; older versions had only one task
        optim = dict(values["optim"])
        values = {**values, "optim": optim, "task": {"label_smoothing": optim.pop("label_smoothing")}}
    if "task" in values and "kind" not in values["task"]:
        values = {**values, "task": {"kind": Config().task.kind, **values["task"]}}  # the default was the only one
    start = values.get("start", {})
    if start.get("weights") and "head" not in start:  # older versions kept whatever head fitted
        values = {**values, "start": {**start, "head": "fitting"}}
    data = dict(values.get("data", {}))
    moved = {name: data.pop(name) for name in MOVED_TO_AUGMENT if name in data}
    return {**values, "data": {**data, "augment": {**data.get("augment", {}), **moved}}} if moved else values


def _explain(error: TypeError) -> str:
    match = re.fullmatch(r"(?:.*\.)?(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    cls: Any = getattr(schema, match[1], None) if match else None
    if match is None or not dataclasses.is_dataclass(cls):
        return str(error)
    return unknown_name(f"field of {match[1]}", match[2], [field.name for field in dataclasses.fields(cls)])
