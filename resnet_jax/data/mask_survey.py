"""What the values of a data set's masks mean: seen from the masks themselves, once, when the data set is opened."""

import logging
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from resnet_jax.data.masks import (
    MOST_CLASSES,
    NOT_COUNTED,
    Colour,
    MaskCode,
    colours_of,
    is_grey,
    read_values,
    some_colours,
    voc_colours,
)
from resnet_jax.errors import DataError, ImageError

log = logging.getLogger("resnet_jax")

SAMPLE = 64
"""Masks that are looked at where the names of the classes are known. Where they are not, it is all of them."""
_COLOURED = re.compile(r"(?P<name>.*\S)[\s,]+(?P<red>\d+)[\s,]+(?P<green>\d+)[\s,]+(?P<blue>\d+)\s*")
_UNCOUNTED_NAME = "-"

Read = Callable[[int], bytes]


class Classes(NamedTuple):
    """The names of the classes in the order of their values, and the class of each colour if colours are given."""

    names: tuple[str, ...]
    colours: tuple[tuple[Colour, int], ...] = ()


def parse_classes(lines: Sequence[str], path: Path) -> Classes:
    """The classes in the lines of a file: `NAME`, or in all lines `NAME R G B`. `- R G B` is a colour not counted.

    Raises:
      DataError: only some lines have colours, a colour is none or there twice, or there are too few or too many lines.
    """
    lines = [line.strip() for line in lines if line.strip()]
    found = [_COLOURED.fullmatch(line) for line in lines]
    if any(found) and not all(found):
        plain = next(line for line, match in zip(lines, found, strict=True) if not match)
        raise DataError(
            f"only some lines of {path} give a colour, and {plain!r} gives none; either all must be NAME R G B, or "
            "none. Complete the colours"
        )
    matches = [match for match in found if match]
    named = [match for match in matches if match["name"] != _UNCOUNTED_NAME]
    names = tuple(match["name"] for match in named) if matches else tuple(lines)
    colours: dict[Colour, int] = {}
    for match in matches:
        colour = (int(match["red"]), int(match["green"]), int(match["blue"]))
        if max(colour) > 255 or colour in colours:
            what = "is there twice" if colour in colours else "has a value above 255"
            raise DataError(f"the colour {colour} of {match['name']!r} in {path} {what}; correct it")
        colours[colour] = named.index(match) if match in named else NOT_COUNTED
    check_class_count(len(names), str(path))
    return Classes(names, tuple(colours.items()))


def check_class_count(count: int, where: str) -> None:
    """Raises a DataError for fewer than two classes, or more than a mask can tell apart."""
    if not 2 <= count <= MOST_CLASSES:
        raise DataError(
            f"{where} has {count} classes; masks need at least 2, the background among them, and at most "
            f"{MOST_CLASSES}. Correct it; if the values number the objects and not their classes, convert the masks"
        )


def learn_code(read: Read, count: int, classes: Classes | None, where: str) -> tuple[tuple[str, ...], MaskCode]:
    """The names of the classes, and what the values of the masks mean.

    It is decided for the data set as a whole, from masks of one split. If `classes` are known, `SAMPLE` masks are
    looked at, spread over the split. Otherwise all are, and the classes are the numbers up to the largest value.

    - Masks in colour: `classes.colours` if given, else Pascal VOC's colours if all colours seen are among them.
    - Two classes, and the masks hold 255 and 0 and nothing else: 255 is class 1.
    - In all other cases 255 is not counted. Masks of 1 bit hold 0 and 1 in any case.

    What is recognised is said in the log.

    Args:
      read: gives the bytes of a mask.
      count: how many masks the split has.
      where: the name of the data set.

    Raises:
      DataError: too few or too many classes, or colours that are not known.
    """
    everything = range(count)
    spread = [int(i) for i in np.unique(np.linspace(0, count - 1, SAMPLE).astype(int))] if classes else everything
    seen = _survey(read, spread)
    if classes and len(classes.names) == 2 and seen.values <= {0} and not seen.colours:
        seen = _survey(read, everything)  # the sample shows no class 1, so it cannot tell what 255 means
    colours = classes.colours if classes else ()
    if seen.colours and not colours:
        known = {colour: number for number, colour in enumerate(voc_colours())}
        if unknown := seen.colours - known.keys():
            raise DataError(
                f"the masks of {where} are in colour ({some_colours(unknown)}), and not in Pascal VOC's colours; the "
                "class of each colour must be known. Write classes.txt, one line NAME R G B for each class, or convert "
                "the masks to PNGs whose values are the classes"
            )
        colours = tuple(known.items())
        log.warning("%s: the masks are in colour and read by Pascal VOC's colours", where)
    values = seen.values | {number for colour, number in colours if colour in seen.colours}
    binary = NOT_COUNTED in seen.values and seen.values <= {0, NOT_COUNTED} and not seen.colours
    if classes:
        names = classes.names
    else:
        largest = max((value for value in values if value != NOT_COUNTED), default=0)
        names = tuple(str(i) for i in range(max(largest + 1, 2 if binary or seen.bits else 0)))
        check_class_count(len(names), f"{where}, which does not name them,")
        log.warning("%s does not name its classes; its masks have the values 0 to %d", where, len(names) - 1)
    binary = binary and len(names) == 2
    if binary:
        log.warning("%s: the masks have the values 0 and 255 alone, so 255 is class 1 (%s)", where, names[1])
    return names, MaskCode(len(names), binary, colours)


class _Seen(NamedTuple):
    """Numbers in masks of more than one bit, colours that are not grey, and whether masks of one bit show class 1."""

    values: frozenset[int] = frozenset()
    colours: frozenset[Colour] = frozenset()
    bits: bool = False


def _survey(read: Read, indices: Sequence[int], threads: int = 8) -> _Seen:
    """Looks through masks. Those that cannot be read are left out here: they are errors when they are needed."""

    def look(index: int) -> _Seen:
        try:
            values = read_values(read(index), name="")
        except ImageError:
            return _Seen()
        if values.dtype == bool:
            return _Seen(bits=bool(values.any()))
        if values.ndim == 3 and not is_grey(values):
            return _Seen(colours=frozenset(colours_of(values)))
        return _Seen(frozenset(map(int, np.unique(values))))

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(look, indices))
    return _Seen(
        frozenset().union(*(one.values for one in found)),
        frozenset().union(*(one.colours for one in found)),
        any(one.bits for one in found),
    )
