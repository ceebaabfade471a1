"""How a network came to be: the curves of its run, and what is known of its making."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnet_jax.analysis.report.pictures import drawn
from resnet_jax.config import Config
from resnet_jax.config.checked import flat
from resnet_jax.config_files import saved_config
from resnet_jax.logs.curves import plot_curves
from resnet_jax.logs.run_log import read_metrics
from resnet_jax.run.environment import read_sessions
from resnet_jax.run.evaluate import key, shown_names
from resnet_jax.tasks.table import task_of


def curves_of(run: Path) -> str:
    """The curves of a run as a `data:` address. Empty if it has no log."""
    records = read_metrics(run)
    if not records:
        return ""
    config = saved_config(run)
    task = task_of(config)
    names, best = shown_names(config, task), key(config.evaluations[0].name, task.best)
    title = f"{config.model.name} on {config.data.name}"
    return drawn(lambda path: plot_curves(records, path, title, best, names[best]))


def making_of(run: Path) -> dict[str, str]:
    """What a run wrote down of how it was made, for people: its last session, and what its config says besides the
    defaults."""
    sessions = read_sessions(run)
    session = flat(sessions[-1]) if sessions else {}
    told = {f"config.{name}": value for name, value in _chosen(saved_config(run)).items()}
    return {name: _text(value) for name, value in {"run": run, **session, **told}.items() if value is not None}


def _chosen(config: Config) -> dict[str, Any]:
    """The fields of a config that are not as they are by default."""
    by_default = flat(dataclasses.asdict(Config()))
    return {name: value for name, value in flat(dataclasses.asdict(config)).items() if by_default.get(name) != value}


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_text(one)}" for name, one in value.items())
    return ", ".join(map(_text, value)) if isinstance(value, list | tuple) else str(value)
