"""A study as it is to be run: its file, its cells, its folder, and every check that can be made before a run begins."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resnet_jax import data
from resnet_jax.config_files import FILE_NAME, changes_of_run, defined_in, has_saved, saved_config
from resnet_jax.errors import ConfigError
from resnet_jax.files import open_folder, read_json, write_atomically
from resnet_jax.run.evaluate import make_evaluations
from resnet_jax.studies.cells import Cell, cells_of, chosen, scaled
from resnet_jax.studies.study import Study
from resnet_jax.tasks.assemble import groups_and_phases

STUDY = "study.json"
SHOWN = 12
"""Differences that an error lists, at most."""


@dataclass(frozen=True)
class Opened:
    """A study, to be run.

    Attributes:
      study: at the scale that was asked for.
      cells: those that were asked for.
      arguments: those of `open_study`, as JSON.
    """

    study: Study
    cells: list[Cell]
    seeds: tuple[int, ...]
    workdir: Path
    arguments: dict[str, Any]


def open_study(
    file: str,
    workdir: str,
    *,
    options: Sequence[str] = (),
    only: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    scale: str | None = None,
) -> Opened:
    """Reads a study file and makes its cells. It writes nothing.

    Args:
      options: of the command line, for all cells.
      only: patterns of names of cells.

    Raises:
      ConfigError: the file is no study, a cell cannot be trained, or the folder holds another study.
      ModelError: the network of a cell cannot be built.
    """
    study = scaled(defined_in(file, "study", Study), scale)
    every = cells_of(study, options)
    cells = chosen(every, only)
    chosen_seeds = tuple(study.seeds if seeds is None else seeds)
    if not chosen_seeds or len(set(chosen_seeds)) < len(chosen_seeds):
        raise ConfigError(f"--seeds = {chosen_seeds} must be numbers, at least one, each once")
    for cell in cells:
        cell.seeded(chosen_seeds[0])
        groups_and_phases(cell.config, cell.task())  # an impossible network or level ends the command, not a cell
    arguments = {"file": file, "workdir": workdir, "options": list(options), "only": list(only), "scale": scale}
    opened = Opened(study, cells, chosen_seeds, Path(workdir), {**arguments, "seeds": list(chosen_seeds)})
    _check_folder(opened, every)
    return opened


def _check_folder(opened: Opened, every: Sequence[Cell]) -> None:
    """Refuses a folder whose runs are not those of this study."""
    path = open_folder(opened.workdir) / STUDY
    saved = read_json(path) if path.exists() else {"cells": {}}
    lines = [line for cell in every for line in _changes(cell, opened.workdir, saved["cells"].get(cell.name, {}))]
    if saved["cells"] and not {cell.name for cell in every} & set(saved["cells"]):
        lines = [f"cells: {', '.join(saved['cells'])} (saved), and none of them is in this study"]
    if lines:
        more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        whose = f"the study {saved['title']!r} of {saved['file']}" if path.exists() else "runs"
        raise ConfigError(
            f"{opened.workdir} holds {whose}, which differs from this study, and nothing in it was touched:\n  "
            + "\n  ".join([*lines[:SHOWN], *more])
            + "\nChoose another --workdir, or the saved values to continue that study"
        )


def _changes(cell: Cell, workdir: Path, saved: Mapping[str, Any]) -> list[str]:
    """How a cell differs from the first of its runs that the folder holds; a run that has saved nothing is none."""
    for folder in sorted((workdir / cell.name).glob("seed*")):
        if (folder / FILE_NAME).exists() and has_saved(folder):
            lines = changes_of_run(cell.seeded(saved_config(folder).seed), folder)
            was, now = saved.get("network"), _network(cell)
            lines += [f"network: {was} (saved) != {now} (asked)"] if saved and was != now else []
            return [f"{cell.name}: {line}" for line in lines]
    return []


def check_data(opened: Opened) -> None:
    """Opens each data set once, so that a name that is wrong ends the command, and not run after run.

    Raises:
      DataError, ConfigError: a data set cannot be read, or is not what the task of a cell needs.
    """
    seen = set()
    for cell in opened.cells:
        config = cell.config
        if (config.data, config.evals, config.task) in seen:
            continue
        seen.add((config.data, config.evals, config.task))
        task = cell.task()
        task.check_source(data.load_source(config.data, config.data.train_split))
        make_evaluations(config, task)


def save_study(opened: Opened, command: str) -> None:
    """Writes `study.json` into the folder. Cells of earlier commands stay in it."""
    folder = open_folder(opened.workdir)
    folder.mkdir(parents=True, exist_ok=True)
    before = read_json(folder / STUDY) if (folder / STUDY).exists() else {"cells": {}, "seeds": []}
    cells = {cell.name: {"values": dict(cell.values), "network": _network(cell), "config": asdict(cell.config)}
             for cell in opened.cells}  # fmt: skip
    facts = {
        "title": opened.study.title,
        "question": opened.study.question,
        "file": Path(opened.arguments["file"]).name,
        "command": command,
        "scale": opened.arguments["scale"],
        "seeds": sorted({*before["seeds"], *opened.seeds}),
        "cells": {**before["cells"], **cells},
    }
    write_atomically(folder / STUDY, json.dumps(facts, indent=2) + "\n")


def _network(cell: Cell) -> str | None:
    """What tells the network of a cell from others, where the config does not."""
    return None if cell.network is None else " ".join(repr(cell.network).split())
