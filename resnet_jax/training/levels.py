"""What is trained, by named levels, and rates that fall from the head to the stem: from a config to groups of exact
names. `frozen.py` and `optim.py` know only groups.
"""

import difflib
import re
from collections.abc import Collection, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from jaxtyping import PyTree

from resnet_jax.config import Group, OptimConfig
from resnet_jax.config.checked import exact
from resnet_jax.errors import ConfigError
from resnet_jax.survival.digests import by_name
from resnet_jax.training.frozen import check_groups

LEVELS = ("head", "last_block", "last_stage", "all")
BLOCK = re.compile(r"(?:^|/)layer(\d+)_(\d+)/")
LAST_NORM = re.compile(r"(?:^|/)norm/")  # of networks with pre-activation: it follows the last block
STEM, BLOCKS, HEAD = (0,), 1, (2,)
Place = tuple[int, ...]


class Phase(NamedTuple):
    """A part of a run in which the same parameters are trained.

    Attributes:
      start: the number of updates before it.
      level: what is trained, as the config says it.
      resting: groups of rate 0, of the parameters that are trained in other phases only.
    """

    start: int
    level: str
    resting: tuple[Group, ...]


def resolve(
    optim: OptimConfig, params: PyTree[Any], head: Sequence[str], steps_per_epoch: Fraction = Fraction(1)
) -> tuple[tuple[Group, ...], tuple[Phase, ...]]:
    """The groups of a run, and its phases. Most runs have one phase.

    Parameters that no phase trains are in groups of rate 0. The other rates are those of `optim.groups`, multiplied by
    `layer_decay` for each block that follows (timm's `param_groups_layer_decay`).

    Args:
      params: the parameters, or their shapes.
      head: the modules of the head, as `Task.head`.
      steps_per_epoch: as in `Plan`.

    Raises:
      ConfigError: a level that the network does not have, groups that must be mistakes, or nothing is trained.
    """
    check_groups(params, optim.groups)
    levels = [(0, optim.level), *((round(exact(one.epoch) * steps_per_epoch), one.level) for one in optim.unfreeze)]
    if {level for _, level in levels} == {"all"} and optim.layer_decay == 1:
        return optim.groups, (Phase(0, "all", ()),)
    places = places_of(by_name(params), head)
    trained = [(start, level, names_of(level, places)) for start, level in levels]
    ever = frozenset[str]().union(*(names for _, _, names in trained))
    order = sorted(set(places.values()), reverse=True)
    made: dict[tuple[float, float | None, str], list[str]] = {}
    for name in places:
        own = next((group for group in optim.groups if re.search(group.pattern, name)), Group(pattern="."))
        if name in ever:
            rate, statistics = own.rate * optim.layer_decay ** order.index(places[name]), own.statistics
        else:
            rate, statistics = 0.0, optim.frozen_statistics
        made.setdefault((rate, own.decay if rate else None, statistics), []).append(name)
    made.pop((1.0, None, "fixed"), None)
    groups = tuple(
        Group(pattern=exactly(names), rate=rate, decay=decay, statistics=statistics)  # type: ignore[arg-type]
        for (rate, decay, statistics), names in made.items()
    )
    check_groups(params, groups)
    phases = tuple(
        Phase(start, level, _resting([name for name in places if name in ever - names], optim))
        for start, level, names in trained
    )
    return groups, phases


def names_of(level: str, places: dict[str, Place]) -> frozenset[str]:
    """The parameters that a level trains.

    Args:
      level: one of `LEVELS`, or a regular expression that is searched in the paths.
      places: path of each parameter -> its place in the network.

    Raises:
      ConfigError: the network does not have this level.
    """
    blocks = [where for where in places.values() if where[0] == BLOCKS]
    first: Place
    if level == "all":
        first = STEM
    elif level == "head":
        first = HEAD
    elif level in LEVELS:
        if not blocks:
            raise ConfigError(
                f"optim.level = {level!r}: the network has no blocks (no parameter lies in a module such as "
                f"layer4_2); the first are {', '.join(list(places)[:3])}. Use 'head', 'all' or a regular expression"
            )
        first = max(blocks) if level == "last_block" else max(blocks)[:2]
    else:
        return _found(level, places)
    found = frozenset(name for name, where in places.items() if where >= first)
    if not found:
        raise ConfigError(
            f"optim.level = {level!r}: the network has no head, so nothing would be trained; its last parameters are "
            f"{', '.join(list(places)[-3:])}. Use 'last_block', 'all' or a regular expression"
        )
    return found


def places_of(names: Collection[str], head: Sequence[str]) -> dict[str, Place]:
    """Where each parameter lies: (0,) in the stem, (1, stage, block), (2,) in the head.

    Norms behind the last block count as part of it, as in timm.
    """
    found = {name: (BLOCKS, int(at[1]), int(at[2])) for name in names if (at := BLOCK.search(name))}
    last = max(found.values(), default=STEM)

    def place(name: str) -> Place:
        if name.startswith(tuple(f"{module}/" for module in head)):
            return HEAD
        return found.get(name, last if LAST_NORM.search(name) else STEM)

    return {name: place(name) for name in names}


def exactly(names: Sequence[str]) -> str:
    """The regular expression of these names alone."""
    return f"^(?:{'|'.join(map(re.escape, names))})$"


def _resting(names: Sequence[str], optim: OptimConfig) -> tuple[Group, ...]:
    return (Group(pattern=exactly(names), rate=0.0, statistics=optim.frozen_statistics),) if names else ()


def _found(pattern: str, places: dict[str, Place]) -> frozenset[str]:
    try:
        found = frozenset(name for name in places if re.search(pattern, name))
    except re.error as error:
        raise ConfigError(
            f"optim.level = {pattern!r} is no level ({', '.join(LEVELS)}), and no regular expression ({error}); "
            "correct it"
        ) from error
    if not found:
        near = difflib.get_close_matches(pattern, [*LEVELS, *places], n=3, cutoff=0.0)
        raise ConfigError(
            f"optim.level = {pattern!r} is no level ({', '.join(LEVELS)}), and as a regular expression it is found in "
            f"none of the {len(places)} parameters; the nearest are {', '.join(near)}. Correct it"
        )
    return found
