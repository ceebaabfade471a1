"""How many bytes a compiled program moves between a device and its memory, counted in its optimised text.

At this point XLA has decided what is fused, how each array is laid out and which arrays stay on the chip. Each kernel
reads its operands and writes its results once; caches are not taken into account. Standard library only.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from resnet_jax.cost.hlo import Instruction, Program, Shape, read_program

# Operations that move nothing: names for existing arrays, and the ends of copies whose starts are counted.
_FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "after-all", "partition-id", "replica-id"}
_MOVES = {"parameter", "copy", "transpose", "bitcast", "tuple", "reshape", "convert", "get-tuple-element"}


@dataclass(frozen=True)
class Kernel:
    """One instruction that the device runs.

    Attributes:
      kind: `convolution`, `convolution + reduce`, `pool`, `reduce`, `elementwise`, `copy`, ..., the target of a custom
        call, or the name of the HLO operation.
      read: bytes that one run reads from memory.
      written: bytes that one run writes to memory.
      times: how often it runs in a step: the trips of the loops around it.
      results: the arrays that it makes, also those on the chip.
      source: the path of JAX's operation, such as `jit(train_step)/jvp(ResNet)/layer1_0/conv1/...`; may be empty.
    """

    name: str
    kind: str
    read: int
    written: int
    times: int
    results: tuple[Shape, ...]
    source: str

    @property
    def bytes(self) -> int:
        """Bytes read and written in a step."""
        return (self.read + self.written) * self.times


def read_kernels(text: str, *, on_chip: bool) -> tuple[Kernel, ...]:
    """The kernels of an optimised HLO module in order, with those of loops and called computations.

    Args:
      on_chip: whether arrays in a memory space other than 0 lie on the chip, as on TPUs (`S(1)` is VMEM). Then they
        cost no traffic. On GPUs these spaces are parts of the same memory.
    """
    program = read_program(text)

    @cache
    def contents(computation: str) -> frozenset[str]:
        """The operations of a computation and of those that it calls."""
        body = program.computations.get(computation, ())
        inner = (contents(called) for instruction in body for called in instruction.called)
        return frozenset(instruction.op for instruction in body).union(*inner)

    def walk(computation: str, times: int) -> Iterator[Kernel]:
        body = program.computations[computation]
        made = {instruction.name: instruction for instruction in body}
        for instruction in body:
            op = instruction.op
            if op in _FREE or op.endswith("-done"):
                continue
            if op == "while":
                inner = instruction.called
                yield from (kernel for name in inner for kernel in walk(name, times * program.trip_count(instruction)))
            elif op == "conditional":
                # Which branch runs is not known: the one that moves most bytes counts.
                branches = [tuple(walk(name, times)) for name in instruction.called]
                yield from max(branches, key=lambda kernels: sum(kernel.bytes for kernel in kernels))
            elif op == "call":
                yield from (kernel for name in instruction.called for kernel in walk(name, times))
            else:
                read, written = _moved(instruction, made, program, on_chip)
                yield Kernel(
                    instruction.name,
                    _kind(instruction, contents),
                    read,
                    written,
                    times,
                    instruction.shapes,
                    _source(instruction, program),
                )

    return tuple(walk(program.entry, 1))


def bytes_by_kind(kernels: Iterable[Kernel]) -> dict[str, tuple[int, int]]:
    """For each kind of kernel `(how many, bytes of a step)`, the kind with most bytes first."""
    rows: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for kernel in kernels:
        rows[kernel.kind][0] += 1
        rows[kernel.kind][1] += kernel.bytes
    return {kind: (row[0], row[1]) for kind, row in sorted(rows.items(), key=lambda row: -row[1][1])}


def _moved(instruction: Instruction, made: dict[str, Instruction], program: Program, on_chip: bool) -> tuple[int, int]:
    """Bytes read and written."""

    def size(shapes: Iterable[Shape]) -> int:
        return sum(shape.bytes for shape in shapes if not (on_chip and shape.space))

    arrays = [shape for shape in instruction.shapes if shape.sides]
    if _is_copy(instruction):
        # The result names both ends and a counter; a copy names its destination first. A slice is the smaller end.
        ends = arrays[:2] if instruction.op != "copy-start" else arrays[1::-1]
        moved = min((end.bytes for end in ends), default=0)
        return moved * bool(size(ends[:1])), moved * bool(size(ends[1:]))
    op, operands = instruction.op, [name for name in instruction.operands if name in made]
    read = {name: size(made[name].shapes) for name in operands}
    written = size(instruction.shapes)
    if op.endswith("-start") and op != "all-reduce-start":
        written = size(arrays[len(arrays) // 2 :])  # the result names the operands, and then the new arrays
    elif op == "fusion":
        body = program.computations[instruction.called[0]]
        for name, part in _parts_read(body, operands).items():
            read[name] = min(read[name], part)
        changed = _changed_in_place(body)
        written = written if changed is None else min(written, changed.bytes)
    elif op in ("dynamic-slice", "gather"):
        read[operands[0]] = min(read[operands[0]], written)
    elif op == "dynamic-update-slice":
        read[operands[0]], written = 0, min(written, made[operands[1]].shapes[0].bytes)
    return sum(read.values()), written


def _source(instruction: Instruction, program: Program) -> str:
    """The source of an instruction, or of the last one inside it: XLA for GPUs names a fusion's source only there."""
    inner = [part for name in instruction.called for part in program.computations.get(name, ())]
    return next((part.source for part in (instruction, *reversed(inner)) if part.source), "")


def _is_copy(instruction: Instruction) -> bool:
    """Whether it copies between memories beside other work: `copy-start`, and the asynchronous slices of TPUs."""
    return instruction.op == "copy-start" or "slice-start" in f"{instruction.op} {instruction.name}"


def _parts_read(body: tuple[Instruction, ...], operands: list[str]) -> dict[str, int]:
    """For operands of which a fusion reads only slices, the bytes of these slices."""
    parts = {}
    for parameter in (instruction for instruction in body if instruction.op == "parameter"):
        operand = operands[int(parameter.arguments)]
        uses = [instruction for instruction in body if parameter.name in instruction.operands]
        if operands.count(operand) > 1 or any(use.operands.index(parameter.name) for use in uses):
            continue
        if uses and all(use.op == "dynamic-slice" for use in uses):
            parts[operand] = sum(use.shapes[0].bytes for use in uses)
        elif uses and all(use.op == "dynamic-update-slice" for use in uses):
            parts[operand] = 0
    return parts


def _changed_in_place(body: tuple[Instruction, ...]) -> Shape | None:
    """The slice that a fusion writes into an array in place. None if it makes a new array."""
    made = {instruction.name: instruction for instruction in body}
    root = next(instruction for instruction in body if instruction.is_root)
    while root.op == "bitcast":
        root = made[root.operands[0]]
    if root.op != "dynamic-update-slice" or made[root.operands[0]].op != "parameter":
        return None
    return made[root.operands[1]].shapes[0]


def _kind(instruction: Instruction, contents: Callable[[str], frozenset[str]]) -> str:
    if instruction.op == "custom-call":
        return instruction.custom_call_target
    if instruction.op != "fusion":
        return instruction.op
    if "__triton" in instruction.attributes:
        return "triton gemm" if "gemm" in instruction.attributes else "triton"
    ops = contents(instruction.called[0])
    if ops & {"convolution", "dot"}:
        return "convolution + reduce" if "reduce" in ops else "convolution"
    if ops & {"select-and-scatter", "reduce-window"}:
        return "pool"
    if "reduce" in ops:
        return "reduce"
    if "scatter" in ops:
        return "scatter"
    return "copy" if ops <= _MOVES else "elementwise"
