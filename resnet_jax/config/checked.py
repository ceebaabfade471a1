"""How config dataclasses check themselves: the type and the range of every field. Standard library only."""

import dataclasses
import fractions
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from resnet_jax.errors import ConfigError, unknown_name


@dataclass(frozen=True)
class Range:
    """An interval of numbers for a config field: `low <= value <= high` and `above < value < below`."""

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high and self.above < value < self.below

    def __str__(self) -> str:
        ends = [(">=", self.low), (">", self.above), ("<=", self.high), ("<", self.below)]
        return " and ".join(f"{sign} {end:g}" for sign, end in ends if math.isfinite(end)) or "a finite number"


@dataclass(frozen=True)
class Pattern:
    """Marks a config field that holds a regular expression."""


Positive = Range(above=0)
NotNegative = Range(low=0)
AtLeastOne = Range(low=1)
Fraction = Range(low=0, below=1)


class Checked:
    """Base of the config dataclasses: checks the type and the range of every field."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            _check(f"{type(self).__name__}.{name}", getattr(self, name), hint)


def exact(epochs: float) -> fractions.Fraction:
    """The number that was meant. 1.1 as a float is a little more than 11/10, and 55 steps would become 56."""
    # The `or`: numbers below half of 1e-9 would become 0.
    return fractions.Fraction(epochs).limit_denominator(10**9) or fractions.Fraction(epochs)


def nearest_multiples(value: int, of: int) -> str:
    """The multiples of `of` below and above `value`, as words: `96 or 128`."""
    low = value // of * of
    return f"{low} or {low + of}" if low else f"{of}"


def differences(saved: Checked, asked: Checked) -> list[str]:
    """One line per field that differs, `optim.base_lr: 0.1 (saved) != 0.2 (asked)`; empty where the two are equal."""
    a, b = (flat(dataclasses.asdict(config)) for config in (saved, asked))  # type: ignore[call-overload]
    names = [*a, *(name for name in b if name not in a)]  # the names differ where a field holds one of several classes
    return [f"{n}: {a.get(n)!r} (saved) != {b.get(n)!r} (asked)" for n in names if a.get(n) != b.get(n)]


def from_dict(cls: type, values: Mapping[str, Any]) -> Any:
    """Builds a config dataclass from nested dictionaries, such as JSON gives.

    Raises:
      ConfigError: an unknown field (with the near ones), a wrong type, or a value out of range.
    """
    hints = get_type_hints(cls)
    arguments = {}
    for name, value in values.items():
        if name not in hints:
            raise ConfigError(unknown_name(f"field of {cls.__name__}", name, hints))
        hint = _chosen(hints[name], value)
        if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
            value = from_dict(cast(type, hint), value)
        elif isinstance(value, list):
            (item, *_) = get_args(hint) or (None,)
            nested = dataclasses.is_dataclass(item)
            value = tuple(
                from_dict(cast(type, item), one) if nested and isinstance(one, Mapping) else _as_tuple(one)
                for one in value
            )
        arguments[name] = value
    return cls(**arguments)


def _as_tuple(value: Any) -> Any:
    """A list within a list of JSON is a tuple within a tuple."""
    return tuple(value) if isinstance(value, list) else value


def _chosen(hint: Any, value: Any) -> Any:
    """For a field of several possible dataclasses: the one whose `kind` the value has. Else the hint itself."""
    if get_origin(hint) not in (Union, UnionType) or not isinstance(value, Mapping):
        return hint
    kinds = {getattr(option, "kind"): option for option in get_args(hint) if dataclasses.is_dataclass(option)}  # noqa: B009
    if str(value.get("kind")) not in kinds:  # a list is no key of a dictionary
        raise ConfigError(unknown_name("kind", str(value.get("kind")), kinds))
    return kinds[value["kind"]]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`."""
    leaves: dict[str, Any] = {}
    for name, value in values.items():
        leaves |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return leaves


def _check(where: str, value: Any, hint: Any) -> None:
    ranges: tuple[Range, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *extras = get_args(hint)
        ranges = tuple(extra for extra in extras if isinstance(extra, Range))
        if any(isinstance(extra, Pattern) for extra in extras) and isinstance(value, str):
            _check_pattern(where, value)
    in_union = get_args(hint) if get_origin(hint) in (Union, UnionType) else ()
    # In `Annotated[int, Range] | None` the range belongs to one option of the union: check against that option.
    if value is not None and (ranged := [option for option in in_union if get_origin(option) is Annotated]):
        _check(where, value, ranged[0])
        return
    if get_origin(hint) is tuple and isinstance(value, tuple):
        for i, item in enumerate(value):
            _check(f"{where}[{i}]", item, get_args(hint)[0])
        return
    if not _has_type(value, hint):
        raise ConfigError(f"{where} = {value!r} must be {_describe(hint)}, not {type(value).__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} = {value!r} must be a finite number")
    for allowed in ranges:
        if not allowed.holds(value):
            raise ConfigError(f"{where} = {value!r} is out of range; it must be {allowed}")


def _check_pattern(where: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{where} = {pattern!r} is no regular expression: {error}; correct it") from error


def _has_type(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in get_args(hint))
    if origin in (Union, UnionType):
        return any(_has_type(value, option) for option in get_args(hint))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, origin or hint)


def _describe(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_describe(option) for option in get_args(hint))
    if get_origin(hint) is tuple:
        return f"a tuple of {_describe(get_args(hint)[0])} values"
    if get_origin(hint) is Annotated:
        return _describe(get_args(hint)[0])
    return "None" if hint is type(None) else getattr(hint, "__name__", str(hint))
