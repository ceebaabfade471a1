"""The cells of a study: one config for each combination of the values of its axes."""

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from resnet_jax.config import Config
from resnet_jax.config.checked import Checked, flat
from resnet_jax.config_files import override, read_config_file
from resnet_jax.errors import ConfigError, unknown_name
from resnet_jax.studies.study import Axes, Difference, Overrides, Scale, Slope, Study
from resnet_jax.tasks.table import settled, task_of
from resnet_jax.tasks.task import Task

WORD = re.compile(r"[\w+=,.-]*[\w+=-]")  # a folder's name on any system


@dataclass(frozen=True)
class Cell:
    """One combination of the values of the axes.

    Attributes:
      name: the values, with a slash between: the folder of its runs.
      values: the value of each axis.
      config: of its runs, but for their seeds.
      network: in place of the network of the config; None = that one.
    """

    name: str
    values: Mapping[str, str]
    config: Config
    network: Any = None

    def seeded(self, seed: int) -> Config:
        """The config of the run with this seed."""
        return replace(self.config, seed=seed)

    def task(self) -> Task:
        return task_of(self.config, self.network)


def scaled(study: Study, scale: str | None) -> Study:
    """The study at one of its sizes; None = its own.

    Raises:
      ConfigError: it has no scale of this name.
    """
    if scale is None:
        return study
    if scale not in study.scales:
        known = f"unknown scale {scale!r}: the study has none; leave out --scale"
        raise ConfigError(unknown_name("scale", scale, study.scales) if study.scales else known)
    _check_mentioned(study)
    found = _at_scale(study, study.scales[scale])
    names = _names_of_cells(found)  # nothing is said of cells of other scales
    return replace(
        found,
        compare=tuple(said for said in study.compare if isinstance(said, Slope) or {said.of, said.minus} <= names),
        paper={name: published for name, published in study.paper.items() if name in names},
    )


def _at_scale(study: Study, scale: Scale) -> Study:
    # `data` of the scale replaces what the study says of `data.image_size` too.
    kept = {
        name: value
        for name, value in study.settings.items()
        if not any(name.startswith(f"{whole}.") for whole in scale.settings)
    }
    return replace(
        study,
        base=study.base if scale.base is None else scale.base,
        settings={**kept, **scale.settings},
        axes={**study.axes, **scale.axes},
        seeds=study.seeds if scale.seeds is None else scale.seeds,
    )


def _names_of_cells(study: Study) -> set[str]:
    return {"/".join(values.values()) for values in grid(study)}


def cells_of(study: Study, options: Sequence[str] = ()) -> list[Cell]:
    """The cells, in the order of the axes.

    Args:
      options: of a command line, such as `["--epochs", "3"]`; they hold for all cells.

    Raises:
      ConfigError: a field that is not there (with the near names) or out of its range, an axis that overrides nothing,
        an option that each cell would override, two cells that are the same run, or a name that is no cell's.
    """
    _check_names(study)
    base = study.base if isinstance(study.base, Config) else read_config_file(Path(study.base))
    given = changed(base, study.settings, "settings")
    config = override(given, options)
    _check_options(study.axes, given, config)
    cells = []
    for values in grid(study):
        named = Cell("/".join(values.values()), values, _at(config, study.axes, values))
        named = replace(named, config=settled(named.config))
        network = study.network(named.config, named) if study.network else None
        cells.append(replace(named, network=network))
    _check_different(cells)
    _check_mentioned(study)
    return cells


def grid(study: Study) -> list[dict[str, str]]:
    """The combinations of values that are cells."""
    every = [dict(zip(study.axes, chosen, strict=True)) for chosen in itertools.product(*study.axes.values())]
    kept = [values for values in every if not (study.leave_out and study.leave_out(values))]
    if not kept:
        raise ConfigError("leave_out leaves out every cell, so there is nothing to run; let it be False for some")
    return kept


def chosen(cells: Sequence[Cell], patterns: Sequence[str]) -> list[Cell]:
    """The cells that one of the patterns names, such as `residual/*`; all where there is none.

    Raises:
      ConfigError: a pattern names no cell.
    """
    names = [cell.name for cell in cells]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(f"--only: {unknown_name('cell', pattern, names)}")
    return [cell for cell in cells if not patterns or any(fnmatchcase(cell.name, one) for one in patterns)]


def changed(config: Any, overrides: Overrides, where: str) -> Any:
    """A config with other values in the named fields, all of them at once: each check sees all changes.

    Raises:
      ConfigError: a field that is not there, or a value that it cannot have.
    """
    own: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    for name, value in overrides.items():
        first, _, rest = name.partition(".")
        fields = [field.name for field in dataclasses.fields(config)]
        if first not in fields or (rest and not isinstance(getattr(config, first), Checked)):
            raise ConfigError(f"{where}: {unknown_name(f'field of {type(config).__name__}', first, fields)}")
        if rest:
            inner.setdefault(first, {})[rest] = value
        else:
            own[first] = tuple(value) if isinstance(value, list) else value
    for first, values in inner.items():
        own[first] = changed(own.get(first, getattr(config, first)), values, where)
    try:
        return replace(config, **own)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _at(config: Config, axes: Axes, values: Mapping[str, str]) -> Config:
    """The config of a cell. The overrides of all its values are applied at once."""
    overrides: dict[str, Any] = {}
    for axis, value in values.items():
        for name, setting in axes[axis][value].items():
            if name in overrides and overrides[name] != setting:
                raise ConfigError(
                    f"cell {'/'.join(values.values())}: the axis {axis!r} sets {name} to {setting!r}, and an axis "
                    f"before it to {overrides[name]!r}; let one axis set it"
                )
            overrides[name] = setting
    return changed(config, overrides, f"cell {'/'.join(values.values())}")


def _check_names(study: Study) -> None:
    if not study.axes:
        raise ConfigError("the study has no axes, so it is one run; name axes, or train it with train.py")
    if not study.seeds or len(set(study.seeds)) < len(study.seeds):
        raise ConfigError(f"seeds = {study.seeds} must be numbers, at least one, each once")
    for axis, values in study.axes.items():
        if wrong := [value for value in values if not WORD.fullmatch(value)]:
            raise ConfigError(
                f"axis {axis!r}: the value {wrong[0]!r} names a folder; it must consist of letters, digits and + = , . "
                "- _ and must not end with a dot"
            )
        if len(values) < 2 or (study.network is None and not any(values.values())):
            raise ConfigError(
                f"axis {axis!r} overrides nothing: it has the values {', '.join(values) or 'none'}, and they leave "
                "the config as it is; give it values that differ, or leave it out"
            )


def _check_options(axes: Axes, before: Config, after: Config) -> None:
    """An option that every value of an axis overrides would have no effect."""
    old, new = flat(asdict(before)), flat(asdict(after))
    moved = {name for name in new if new[name] != old.get(name)}
    if "seed" in moved:
        raise ConfigError("--seed: each run of a study has a seed of its own; say which with --seeds 0 1 2")
    for axis, values in axes.items():
        if always := sorted(moved.intersection(*(set(overrides) for overrides in values.values()))):
            option = f"--{always[0].replace('_', '-')}"
            raise ConfigError(
                f"{option}: the axis {axis!r} sets {always[0]} in each cell, so the option would have no effect; leave "
                "it out, or change the axis in the study"
            )


def _check_different(cells: Sequence[Cell]) -> None:
    for one, other in itertools.combinations(cells, 2):
        if one.config == other.config and one.network == other.network:
            raise ConfigError(
                f"the cells {one.name} and {other.name} are the same run: their configs do not differ in any field. "
                "Let their values override different things, or leave one of them out (leave_out)"
            )


def _check_mentioned(study: Study) -> None:
    """The names of cells and axes in the rest of the study; those of a cell may belong to another of its scales."""
    sizes = [study, *(_at_scale(study, scale) for scale in study.scales.values())]
    names = {name for size in sizes for name in _names_of_cells(size)}
    for name in study.paper:
        if name not in names:
            raise ConfigError(f"paper: {unknown_name('cell', name, names)}")
    for said in study.compare:
        if isinstance(said, Difference):
            for name in (said.of, said.minus):
                if name not in names:
                    raise ConfigError(f"compare: {unknown_name('cell', name, names)}")
            continue
        if said.along not in study.axes:
            raise ConfigError(f"compare: {unknown_name('axis', said.along, study.axes)}")
        for value in study.axes[said.along]:
            try:
                float(value)
            except ValueError as error:
                raise ConfigError(
                    f"compare: a slope along {said.along!r} needs values that are numbers, and {value!r} is none; "
                    "rename the values, or compare cells by a Difference"
                ) from error
