"""What bytes and numbers in an inert pickle mean: those of Python 2 and 3, and NumPy's arrays."""

from dataclasses import dataclass
from itertools import product
from mmap import mmap
from typing import Any

import numpy as np

from resnet_jax.data.sources.inert_pickle import Call, Name, PickleError, Span, Value

_ENCODE, _DTYPE = Name("_codecs", "encode"), Name("numpy", "dtype")
_EMPTY = (Name("__builtin__", "bytes"), Name("builtins", "bytes"))
_CORE = ("numpy.core", "numpy._core")  # before and since version 2
_REBUILD = [Name(f"{core}.multiarray", "_reconstruct") for core in _CORE]
_SCALAR = [Name(f"{core}.multiarray", "scalar") for core in _CORE]
_BUFFER = [Name(f"{core}.numeric", "_frombuffer") for core in _CORE]
ALLOWED = frozenset([_ENCODE, *_EMPTY, _DTYPE, Name("numpy", "ndarray"), *_REBUILD, *_SCALAR, *_BUFFER])
"""What pickles name for bytes (as Python 3 writes them for Python 2), arrays and their numbers."""
_LATIN = (b"latin1", b"latin-1")
_KINDS = {"b1", *(f"{kind}{size}" for kind, size in product("iu", (1, 2, 4, 8)))}
_LONGEST = 16  # bytes of the name of a codec or of a kind of numbers

Data = bytes | mmap


@dataclass(frozen=True, slots=True)
class Place:
    """Where bytes are in the file.

    Attributes:
      as_text: each byte is a character of a text in UTF-8.
    """

    start: int
    stop: int
    as_text: bool = False

    def read(self, data: Data) -> bytes:
        """Raises a PickleError for text that is not of bytes."""
        return decoded(data[self.start : self.stop], self.as_text)


def decoded(content: bytes, as_text: bool) -> bytes:
    """The bytes that `content` of a file stands for. Raises a PickleError for text that is not of bytes."""
    try:
        return content.decode().encode("latin-1") if as_text else content
    except UnicodeError as error:
        raise PickleError(f"a text stands for bytes, and is not of bytes ({error})") from error


def bytes_of(value: Value, data: Data) -> Place | None:
    """Where the bytes are that a value is. None if it is something else. An array of bytes in one row is bytes."""
    match value:
        case Span(start, stop, "bytes"):
            return Place(start, stop)
        case Call(name, (Span(start, stop, "text"), codec)) if name == _ENCODE:
            return Place(start, stop, as_text=True) if _word(codec, data) in _LATIN else None
        case Call(name, ()) if name in _EMPTY:
            return Place(0, 0)
    found = _array_of(value, data)
    return found[2] if found and found[0] == "|u1" and found[1] else None


def truths_of(value: Value, data: Data) -> list[bool] | None:
    """A list, tuple or array of truths, or of the numbers 0 and 1. None if it is something else.

    Raises:
      PickleError: an array whose size is not that of its numbers.
    """
    if isinstance(value, (list, tuple)):
        each = [one if isinstance(one, int) else _numbers(one, data, axes=0) for one in value]
    else:
        each = _numbers(value, data, axes=1)
    return [bool(one) for one in each] if each is not None and all(one in (0, 1) for one in each) else None


def _numbers(value: Value, data: Data, axes: int) -> Any:
    """A list of numbers (one axis), or one number. None if the value is something else."""
    found = _array_of(value, data)
    if found is None or len(found[1]) != axes:
        return None
    kind, shape, place = found
    content = place.read(data)
    if len(content) != (*shape, 1)[0] * np.dtype(kind).itemsize:
        raise PickleError("the size of an array is not that of its numbers")
    return np.frombuffer(content, kind).reshape(shape).tolist()


def _array_of(value: Value, data: Data) -> tuple[str, tuple[int, ...], Place] | None:
    """The kind of numbers, the shape and the bytes of an array of at most one axis. None if the value is none."""
    shape: Any
    match value:
        case Call(name, _, (_, tuple() as shape, dtype, _, raw)) if name in _REBUILD:
            pass
        case Call(name, (raw, dtype, tuple() as shape, _)) if name in _BUFFER:
            pass
        case Call(name, (dtype, raw)) if name in _SCALAR:
            shape = ()
        case _:
            return None
    kind = _kind_of(dtype, data)
    if kind is None or (isinstance(raw, Call) and raw.name != _ENCODE):  # no arrays in arrays
        return None
    place = bytes_of(raw, data)
    right = len(shape) <= 1 and all(type(side) is int and side >= 0 for side in shape)
    return (kind, shape, place) if place is not None and right else None


def _kind_of(dtype: Value, data: Data) -> str | None:
    """The name of a kind of numbers, with the order of their bytes."""
    match dtype:
        case Call(name, (code, *_), (_, order, *_)) if name == _DTYPE:
            kind, order = _word(code, data).decode("latin-1"), _word(order, data).decode("latin-1")
            return f"{order}{kind}" if kind in _KINDS and order in ("<", ">", "|") else None
    return None


def _word(value: Value, data: Data) -> bytes:
    """A short text. Empty if the value is none."""
    return data[value.start : value.stop] if isinstance(value, Span) and value.stop - value.start <= _LONGEST else b""
