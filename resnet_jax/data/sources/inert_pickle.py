"""Pickles read as inert values. Nothing that a pickle names is imported, called or built.

A pickle is a program for a stack machine (`pickletools.py` of Python's library describes its instructions). Python's
own reader calls what the program says, so a hostile file runs whatever it likes. This reader keeps a call as a `Call`,
and refuses every instruction and every name that was not expected.
"""

import pickletools
from collections.abc import Collection
from dataclasses import dataclass
from mmap import mmap
from typing import Any, Literal

MOST_STEPS = 10_000_000
"""Instructions of a program. The largest known sets, of some ten thousand images, have a tenth of it."""
_MOST_DIGITS, _LONGEST_NAME = 8, 200  # bytes of a whole number; of a module's name
_PROTOCOL = 5  # the newest


class PickleError(ValueError):
    """Why a pickle is not read. The text is for a sentence that begins with the name of the file."""


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of the file from `start` to `stop`. They are not copied.

    Attributes:
      kind: `bytes`, or `text` in UTF-8.
    """

    start: int
    stop: int
    kind: Literal["bytes", "text"]


@dataclass(frozen=True, slots=True)
class Name:
    """A function or a class that a pickle names."""

    module: str
    attribute: str

    def __str__(self) -> str:
        return f"{self.module}.{self.attribute}"


@dataclass(slots=True)
class Call:
    """What a pickle would call, with which arguments, and the state that it would give to the result."""

    name: Name
    arguments: tuple[Any, ...]
    state: Any = None


Value = Any
"""A `Span`, int, bool, None, list, tuple, `Name` or `Call`."""


def read_pickle(data: bytes | mmap, allowed: Collection[Name]) -> Value:
    """The value that a pickle describes. Memory grows with the number of its instructions, whatever sizes it declares.

    Args:
      allowed: names that the pickle may call. They are kept, and not called.

    Raises:
      PickleError: another instruction or name, or a pickle that is cut short or damaged.
    """
    machine = _Machine(data, allowed)
    for _ in range(MOST_STEPS):
        if machine.step():
            return machine.result()
    raise PickleError(f"it has more than {MOST_STEPS:,} instructions")


_CONSTANTS: dict[int, Any] = {ord("N"): None, 0x88: True, 0x89: False}
_UNSIGNED = {ord("K"): 1, ord("M"): 2}
_LONG = {0x8A: 1, 0x8B: 4}
# Instruction -> the kind of what follows, and how many bytes its length has.
_SPANS: dict[int, tuple[Literal["bytes", "text"], int]] = {
    ord("U"): ("bytes", 1),
    ord("T"): ("bytes", 4),
    ord("C"): ("bytes", 1),
    ord("B"): ("bytes", 4),
    0x8E: ("bytes", 8),
    0x96: ("bytes", 8),
    ord("X"): ("text", 4),
    0x8C: ("text", 1),
    0x8D: ("text", 8),
}
_PUT = {ord("q"): 1, ord("r"): 4}
_GET = {ord("h"): 1, ord("j"): 4}
_TUPLES = {ord(")"): 0, 0x85: 1, 0x86: 2, 0x87: 3}


class _Machine:
    def __init__(self, data: bytes | mmap, allowed: Collection[Name]) -> None:
        self._data, self._size, self._at, self._allowed = data, len(data), 0, allowed
        self._stack: list[Value] = []
        self._marks: list[int] = []  # heights of the stack
        self._memo: dict[int, Value] = {}

    def result(self) -> Value:
        return self._pop()

    def step(self) -> bool:
        """Does one instruction. Returns whether it was the last."""
        code, push = self._take(1)[0], self._stack.append
        if code in _SPANS:
            kind, width = _SPANS[code]
            push(self._span(self._number(width), kind))
        elif code in _PUT:
            self._memo[self._number(_PUT[code])] = self._top()
        elif code == 0x94:  # MEMOIZE
            self._memo[len(self._memo)] = self._top()
        elif code in _GET:
            push(self._remembered(self._number(_GET[code])))
        elif code in _CONSTANTS:
            push(_CONSTANTS[code])
        elif code in _UNSIGNED:
            push(self._number(_UNSIGNED[code]))
        elif code in _LONG:
            push(self._long(self._number(_LONG[code])))
        elif code == ord("J"):
            push(int.from_bytes(self._take(4), "little", signed=True))
        elif code == ord("I"):
            push(self._line_number())
        elif code in _TUPLES:
            push(self._several(_TUPLES[code]))
        else:
            return self._structure(code)
        return False

    def _structure(self, code: int) -> bool:
        push = self._stack.append
        match chr(code):
            case "(":
                self._marks.append(len(self._stack))
            case "]":
                push([])
            case "t":
                push(tuple(self._marked()))
            case "l":
                push(self._marked())
            case "a":
                item = self._pop()
                self._list().append(item)
            case "e":
                items = self._marked()
                self._list().extend(items)
            case "c":
                push(self._name(self._line(), self._line()))
            case "\x93":
                module, attribute = self._several(2)
                push(self._name(self._text(module), self._text(attribute)))
            case "R":
                name, arguments = self._several(2)
                if not isinstance(name, Name) or not isinstance(arguments, tuple):
                    raise self._damaged("it calls what is no function")
                push(Call(name, arguments))
            case "b":
                state, built = self._pop(), self._top()
                if not isinstance(built, Call) or built.state is not None:
                    raise PickleError("it changes the state of what it has made already")
                built.state = state
            case "0":
                self._pop()
            case "\x80":
                if self._number(1) > _PROTOCOL:
                    raise PickleError(f"its protocol is newer than {_PROTOCOL}")
            case "\x95":
                self._take(8)  # the length of a frame, which only helps to read ahead
            case ".":
                return True
            case other:
                name = next((known.name for known in pickletools.opcodes if known.code == other), "")
                what = f"the instruction {name}" if name else f"the byte {code:#04x}, which is no instruction"
                raise PickleError(f"it holds {what}, at byte {self._at - 1}")
        return False

    def _take(self, count: int) -> bytes:
        if count > self._size - self._at:
            raise PickleError(f"it is cut short: {count} bytes are declared at byte {self._at} of {self._size}")
        self._at += count
        return self._data[self._at - count : self._at]

    def _number(self, width: int) -> int:
        return int.from_bytes(self._take(width), "little")

    def _span(self, length: int, kind: Literal["bytes", "text"]) -> Span:
        if length > self._size - self._at:
            raise PickleError(f"it is cut short: {length} bytes are declared at byte {self._at} of {self._size}")
        self._at += length
        return Span(self._at - length, self._at, kind)

    def _long(self, length: int) -> int:
        if length > _MOST_DIGITS:
            raise PickleError(f"it holds a whole number of {length} bytes")
        return int.from_bytes(self._take(length), "little", signed=True)

    def _line(self) -> str:
        end = self._data.find(b"\n", self._at, self._at + _LONGEST_NAME + 1)
        if end < 0:
            raise self._damaged("a line has no end")
        line = self._data[self._at : end]
        self._at = end + 1
        return line.decode("ascii", errors="replace")

    def _line_number(self) -> int | bool:
        line = self._line()
        if line in ("00", "01"):  # booleans before protocol 2
            return line == "01"
        if not line.removeprefix("-").isdecimal():
            raise self._damaged(f"{line!r} is no number")
        return int(line)

    def _text(self, value: Value) -> str:
        if not isinstance(value, Span) or value.stop - value.start > _LONGEST_NAME:
            raise self._damaged("a name is no text")
        return self._data[value.start : value.stop].decode(errors="replace")

    def _name(self, module: str, attribute: str) -> Name:
        name = Name(module, attribute)
        if name not in self._allowed:
            raise PickleError(f"it names {name}, and a set of images names nothing but bytes and arrays")
        return name

    def _floor(self) -> int:
        return self._marks[-1] if self._marks else 0

    def _several(self, count: int) -> tuple[Value, ...]:
        start = len(self._stack) - count
        if start < self._floor():
            raise self._damaged("values are missing")
        values = tuple(self._stack[start:])
        del self._stack[start:]
        return values

    def _pop(self) -> Value:
        return self._several(1)[0]

    def _top(self) -> Value:
        if len(self._stack) <= self._floor():
            raise self._damaged("values are missing")
        return self._stack[-1]

    def _marked(self) -> list[Value]:
        if not self._marks:
            raise self._damaged("values are missing")
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _list(self) -> list[Value]:
        top = self._top()
        if not isinstance(top, list):
            raise self._damaged("it appends to what is no list")
        return top

    def _remembered(self, place: int) -> Value:
        if place not in self._memo:
            raise self._damaged(f"nothing is remembered as {place}")
        return self._memo[place]

    def _damaged(self, reason: str) -> PickleError:
        return PickleError(f"it is damaged: {reason}, before byte {self._at}")
