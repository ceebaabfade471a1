"""The kernels of a program that take most of its time, by JAX's profiler, with what they compute and how fast."""

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from resnet_jax.cost.speed import Program, trace
from resnet_jax.cost.traffic import Kernel, read_kernels


@dataclass(frozen=True)
class KernelTime:
    """One instruction of the program, in one launch.

    Attributes:
      kind, source, bytes: as `traffic.Kernel` has them; empty and 0 for what is not in the program's text.
    """

    name: str
    milliseconds: float
    share: float
    kind: str
    source: str
    bytes: int

    @property
    def bytes_per_second(self) -> float:
        return self.bytes / (1e-3 * self.milliseconds)


def largest_kernels(program: Program, *, count: int = 5, launches: int = 3) -> list[KernelTime]:
    """Profiles a few launches of a program that XLA made.

    Raises:
      LookupError: the profile names no kernel.
    """
    if not hasattr(jax.profiler, "ProfileData"):
        raise LookupError(f"jax {jax.__version__} cannot read profiles: it has no jax.profiler.ProfileData")
    with tempfile.TemporaryDirectory() as folder:
        trace(program, Path(folder), launches)
        nanoseconds: dict[str, float] = defaultdict(float)
        for path in Path(folder).rglob("*.xplane.pb"):
            for name, duration in kernel_events(jax.profiler.ProfileData.from_file(str(path))):
                nanoseconds[name] += duration / launches
    if not nanoseconds:
        raise LookupError("the profile names no operation of XLA")
    assert program.text, f"{program.name} has no text"
    return sort_kernels(nanoseconds, read_kernels(program.text(), on_chip=jax.default_backend() == "tpu"), count)


def sort_kernels(nanoseconds: dict[str, float], kernels: tuple[Kernel, ...], count: int) -> list[KernelTime]:
    """The `count` that take most time; shares are of all."""
    known, total = {kernel.name: kernel for kernel in kernels}, sum(nanoseconds.values())
    found = []
    for name, duration in sorted(nanoseconds.items(), key=lambda item: -item[1])[:count]:
        kernel = known.get(name)
        what = (kernel.kind, kernel.source, kernel.bytes) if kernel else ("", "", 0)
        found.append(KernelTime(name, 1e-6 * duration, duration / total, *what))
    return found


def kernel_events(profile: Any) -> Iterator[tuple[str, float]]:
    """`(name of the HLO instruction, nanoseconds)` of each time that one ran.

    A device has a plane of its own, a GPU's with a line per stream; on a TPU the line `XLA Ops` has the instructions,
    and others have sums of them. On a CPU they are among the host's threads. What is not one carries no `hlo_op`.
    """
    planes = list(profile.planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    for plane in devices or planes:
        lines = list(plane.lines)
        for line in [line for line in lines if line.name == "XLA Ops"] or lines:
            for event in line.events:
                name = dict(event.stats).get("hlo_op")
                # On a CPU an event tells also when a computation ended, and of that only the instruction itself counts.
                if name and event.duration_ns and not event.name.startswith("end: "):
                    yield str(name), event.duration_ns
