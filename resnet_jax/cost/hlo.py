"""The text of an optimised HLO module, as instructions. Standard library only.

XLA's printer (`xla/hlo/ir/hlo_instruction.cc`) writes one line per instruction:
`%name = type op(%operand, ...), attribute=value, ...`.
"""

import math
import re
from dataclasses import dataclass

_BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128, "token": 0, "opaque": 0}
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\](?:\{([\d,]*)(?::([^{}]*))?\})?")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")


def bits_of(dtype: str) -> int:
    """The number of bits of an HLO element type: `bits_of("bf16") == 16`, `bits_of("f8e4m3fn") == 8`."""
    if dtype in _BITS:
        return _BITS[dtype]
    return int(re.sub(r"\D", "", re.sub(r"e\d.*", "", dtype)))


@dataclass(frozen=True)
class Shape:
    """An array as it is laid out.

    Attributes:
      sides: lengths of the dimensions, in logical order.
      minor_to_major: the order in which the dimensions lie in memory, the fastest first.
      tile: the first tile's sides, the slowest first, as in `T(8,128)`. XLA pads the fastest dimensions to it.
      space: number of the memory space; 0 is the device's main memory.
    """

    dtype: str
    sides: tuple[int, ...]
    minor_to_major: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()
    space: int = 0

    @property
    def logical_bytes(self) -> int:
        """Bytes without padding."""
        return math.prod(self.sides) * bits_of(self.dtype) // 8

    @property
    def bytes(self) -> int:
        """Bytes with the padding of the first tile."""
        padded = list(self.sides)
        for length, side in zip(reversed(self.tile), self.minor_to_major, strict=False):
            padded[side] = -(-padded[side] // length) * length
        return math.prod(padded) * bits_of(self.dtype) // 8


@dataclass(frozen=True)
class Instruction:
    """One line of the text.

    Attributes:
      op: HLO's name of the operation, such as `fusion`.
      shapes: of the result: one, or those of a tuple in order, also of tuples within tuples.
      arguments: the text between the parentheses. For a parameter it is its number.
      attributes: the text behind the parentheses.
    """

    name: str
    op: str
    shapes: tuple[Shape, ...]
    arguments: str
    attributes: str
    is_root: bool

    @property
    def operands(self) -> tuple[str, ...]:
        """Names of instructions of the same computation, in order. A name may occur twice."""
        return tuple(re.findall(r"%([\w.\-]+)", self.arguments))

    @property
    def called(self) -> tuple[str, ...]:
        """The computations that this instruction names."""
        branches = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
        listed = [name.strip().lstrip("%") for name in branches[1].split(",")] if branches else []
        return (*_CALLED.findall(self.attributes), *listed)

    @property
    def custom_call_target(self) -> str:
        """The library function that a custom call calls, such as `__cudnn$convForward`. Empty for others."""
        found = re.search(r'custom_call_target="([^"]+)"', self.attributes)
        return found[1] if found else ""

    @property
    def source(self) -> str:
        """The path of JAX's operation, such as `jit(train_step)/jvp(ResNet)/layer1_0/conv1/...`. It may be empty."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""


@dataclass(frozen=True)
class Program:
    """A module: the instructions of each computation, in order."""

    computations: dict[str, tuple[Instruction, ...]]
    entry: str

    def trip_count(self, loop: Instruction) -> int:
        """How often a `while` runs its body; 1 if the text does not tell.

        XLA for GPUs writes the number beside the loop. XLA for TPUs does not. There it is the bound in the condition
        `counter < bound`, since JAX's loops (`scan`, `fori_loop`) count from 0 in steps of 1.
        """
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
            return int(known[1])
        called = re.search(r"condition=%?([\w.\-]+)", loop.attributes)
        condition = self.computations.get(called[1], ()) if called else ()
        made = {instruction.name: instruction for instruction in condition}
        for test in condition:
            if test.is_root and test.op == "compare" and "direction=LT" in test.attributes:
                bound = made[test.operands[1]]
                if bound.op == "constant" and bound.arguments.isdecimal():
                    return int(bound.arguments)
        return 1


def read_shapes(text: str) -> tuple[Shape, ...]:
    """The arrays of an HLO type, such as `(f32[8,16]{1,0:T(8,128)S(1)}, u32[])`."""
    return tuple(_read_shape(*parts) for parts in _SHAPE.findall(text))


def read_program(text: str) -> Program:
    """Parses `compiled.as_text()` or a dump of XLA.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations: dict[str, list[Instruction]] = {}
    entry, current = None, None
    for line in text.splitlines():
        if not line.startswith(" "):
            if head := _COMPUTATION.match(line):
                current = head[2]
                computations[current] = []
                entry = current if head[1] else entry
        elif current is not None and (match := _INSTRUCTION.match(line)):
            root, name, kind, op, rest = match.groups()
            arguments, attributes = _split_arguments(rest)
            computations[current].append(Instruction(name, op, read_shapes(kind), arguments, attributes, bool(root)))
    if entry is None:
        raise ValueError("no line begins with ENTRY: this is not the text of an HLO module")
    return Program({name: tuple(body) for name, body in computations.items()}, entry)


def _split_arguments(rest: str) -> tuple[str, str]:
    """Splits the text at the parenthesis that closes the arguments."""
    depth = 1
    for i, letter in enumerate(rest):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return rest[:i], rest[i + 1 :]
    return rest, ""


def _read_shape(dtype: str, sides: str, order: str, layout: str) -> Shape:
    tile = re.search(r"T\(([\d,*]+)\)", layout)
    space = re.search(r"S\((\d+)\)", layout)
    return Shape(
        dtype,
        _numbers(sides),
        _numbers(order),
        _numbers(tile[1].replace("*", "1")) if tile else (),
        int(space[1]) if space else 0,
    )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)
