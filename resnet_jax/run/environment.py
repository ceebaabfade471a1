"""How a run was made: `environment.json`, one entry per session, and how two runs differ."""

import dataclasses
import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
from etils import epath

from resnet_jax.config.checked import flat
from resnet_jax.config_files import saved_config
from resnet_jax.errors import ConfigError
from resnet_jax.files import open_folder, write_atomically

FILE_NAME = "environment.json"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "opencv-python-headless", "pillow")
PER_SESSION = ("started", "from_step", "command", "revision")  # differ between sessions of one and the same run


def describe_environment(*, seed: int, from_step: int, data: dict[str, str]) -> dict[str, Any]:
    """This session, as JSON: code, versions, devices, seed, data fingerprints, command line."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "from_step": from_step,
        "command": shlex.join(sys.argv),
        "git": _git_state(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "processes": jax.process_count(),
        "platform": f"{platform.system()} {platform.machine()}",
        "flags": {name: os.environ[name] for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS") if os.environ.get(name)},
        "seed": seed,
        "data": data,
    }


def append_session(workdir: epath.PathLike, session: dict[str, Any]) -> list[str]:
    """Adds a session to `environment.json`.

    Returns:
      the differences from the session before, as `versions.jax: 0.10.2 -> 0.11.0`. After such a change the run may not
      be the same, bit for bit, as one that was not interrupted.
    """
    sessions = read_sessions(workdir)
    write_atomically(open_folder(workdir) / FILE_NAME, json.dumps([*sessions, session], indent=2) + "\n")
    if not sessions:
        return []
    before, now = (flat({k: v for k, v in s.items() if k not in PER_SESSION}) for s in (sessions[-1], session))
    names = [*before, *(name for name in now if name not in before)]
    return [f"{n}: {before.get(n)} -> {now.get(n)}" for n in names if before.get(n) != now.get(n)]


def read_sessions(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """The sessions of a run, oldest first. Empty if there is no record.

    Raises:
      ConfigError: `environment.json` is not what a run writes.
    """
    path = open_folder(workdir) / FILE_NAME
    if not path.exists():
        return []
    try:
        sessions = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; delete it to begin a new record") from error
    if not (isinstance(sessions, list) and all(isinstance(session, dict) for session in sessions)):
        raise ConfigError(f"{path} must hold a list of sessions; delete it to begin a new record")
    return sessions


def last_command(workdir: epath.PathLike) -> str:
    """` with: python train.py ...`, the command of a run's last session. Empty if it was not started from a shell."""
    command = str(read_sessions(workdir)[-1].get("command", "")) if read_sessions(workdir) else ""
    program = command.split(" ")[0]
    if program.endswith("__main__.py"):
        return f" with: python -m resnet_jax{command.removeprefix(program)}"
    if not program.endswith(("train.py", "resnet_jax")):
        return ""
    return f" with: {'python ' * program.endswith('.py')}{command}"


def compare_runs(first: epath.PathLike, second: epath.PathLike) -> dict[str, tuple[Any, Any]]:
    """`config.optim.base_lr` -> the values of both runs, for all names whose values differ. None if a run has no value.

    It compares the config, the last session of the environment, and the result.

    Raises:
      ConfigError: one of the folders holds no run.
    """
    a, b = (_facts(workdir) for workdir in (first, second))
    names = [*a, *(name for name in b if name not in a)]
    return {name: (a.get(name), b.get(name)) for name in names if a.get(name) != b.get(name)}


def _facts(workdir: epath.PathLike) -> dict[str, Any]:
    config = dataclasses.asdict(saved_config(workdir))
    sessions = read_sessions(workdir)
    result = open_folder(workdir) / "result.json"
    try:
        results = json.loads(result.read_text()) if result.exists() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{result} cannot be read: {error}") from error
    return flat({"config": config, "environment": sessions[-1] if sessions else {}, "result": results})


def _git_state() -> dict[str, Any] | None:
    """The commit of the code that runs, and whether the code was changed since. None if it is no git checkout."""
    folder = Path(__file__).parent
    try:
        commit, changes = (
            subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=20).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.strip(), "dirty": bool(changes.strip())}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
