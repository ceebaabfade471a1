"""What the devices exchange in a compiled program, read from its text. Standard library only."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from resnet_jax.cost.hlo import bits_of

KINDS = ("all-reduce", "reduce-scatter", "all-gather", "all-to-all", "collective-permute", "collective-broadcast")


@dataclass(frozen=True)
class Collective:
    """One exchange between devices.

    Attributes:
      kind: one of `KINDS`.
      arrays: how many arrays it carries; compilers join several exchanges into one.
      bytes: of the whole arrays: before a reduce-scatter, after an all-gather.
      devices: number of devices that take part in one exchange.
      repeated: whether it is in a loop or a branch, so that the program may run it any number of times.
    """

    kind: str
    arrays: int
    bytes: int
    devices: int
    repeated: bool

    @property
    def wire_bytes(self) -> float:
        """Bytes that each device sends in a ring (Patarasuk & Yuan 2009), which is the least for large arrays."""
        if self.kind == "collective-permute":
            return self.bytes
        rounds = 2 if self.kind == "all-reduce" else 1
        return rounds * self.bytes * (self.devices - 1) / self.devices


def read_collectives(program: str, devices: int) -> list[Collective]:
    """The collectives of an optimised HLO module, `compiled.as_text()`, in order.

    Args:
      devices: number of devices of the program. An exchange that does not name its devices is between all of them.
    """
    found, entry = [], False
    pattern = re.compile(rf" = (.*?) ({'|'.join(KINDS)})(?:-start)?\(")
    for line in program.splitlines():
        if not line.startswith(" "):
            entry = line.startswith("ENTRY")
            continue
        if not (match := pattern.search(line)):
            continue
        shapes = re.findall(r"(\w+)\[([\d,]*)\]", match[1])
        if f" {match[2]}-start(" in line and match[2] != "all-reduce":
            shapes = shapes[len(shapes) // 2 :]  # an asynchronous one lists its operands, and then its results
        size = sum(
            bits_of(kind) // 8 * math.prod(int(side) for side in sides.split(",") if side) for kind, sides in shapes
        )
        group = _group(line) or devices
        if match[2] == "reduce-scatter":
            size *= group
        found.append(Collective(match[2], len(shapes), size, group, not entry))
    return found


def count_collectives(collectives: Sequence[Collective]) -> dict[str, int]:
    """`{"all-reduce": 2, ...}`, with only the kinds that occur."""
    kinds = [collective.kind for collective in collectives]
    return {kind: kinds.count(kind) for kind in KINDS if kind in kinds}


def _group(line: str) -> int | None:
    """The size of a group, from `replica_groups={{0,1,2,3}}` or `replica_groups=[1,4]<=[4]`."""
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(match[1].split(","))
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(match[1])
    return None
