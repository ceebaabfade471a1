"""The devices that XLA can compile for without having them: `v5e:16x16`, `h100:8`.

Sources, read in November 2026. TPUs: Google Cloud's page of each generation (docs.cloud.google.com/tpu/docs/v4, v5e,
v5p, v6e) for slices and the interconnect. The memory that a program may use is what XLA itself says when a program does
not fit (libtpu 0.0.42). It is up to 1.25 GiB below the maker's figure. GPUs: NVIDIA's data sheets of the A100 SXM 80 GB
and the H100 SXM, and of ConnectX-6 (200 Gbit/s) and ConnectX-7 (400 Gbit/s), one for each GPU as in the maker's DGX
systems. Of 80 GiB of memory CUDA reports 79.1. The speeds of arithmetic and memory are in `peaks.py`.
"""

import math
import re
from dataclasses import dataclass, field

from resnet_jax.config.checked import nearest_multiples
from resnet_jax.cost.peaks import PEAKS, Peak
from resnet_jax.errors import ConfigError, unknown_name

GIB = 2**30
HOST_GPUS = 8
FLAT = ((2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
CUBIC = (
    (2, 2, 1),
    (2, 2, 2),
    (2, 2, 4),
    (2, 4, 4),
    (4, 4, 4),
    (4, 4, 8),
    (4, 8, 8),
    (8, 8, 8),
    (8, 8, 16),
    (8, 16, 16),
)


@dataclass(frozen=True)
class Chip:
    """One kind of device.

    Attributes:
      kind: JAX's name for it (`device_kind`).
      memory: bytes that a program may use.
      link: bytes per second that a device can send over all its links to its neighbours.
      shapes: of the slices of TPUs that are offered; none for GPUs.
      largest: chips of the largest slice. Where slices are cubic, above 64 chips any sides that are multiples of 4 will
        do.
      island: GPUs that `link` connects; 0 = all devices.
      network: bytes per second of one device between islands.
      latency: seconds of one step of an exchange; assumed.
    """

    kind: str
    memory: int
    link: float
    shapes: tuple[tuple[int, ...], ...] = ()
    largest: int = 0
    island: int = 0
    network: float = 0.0
    latency: float = 1e-6

    @property
    def is_tpu(self) -> bool:
        return bool(self.shapes)

    @property
    def peak(self) -> Peak:
        return next(peak for kind, peak in PEAKS.items() if self.kind.startswith(kind))

    def allows(self, shape: tuple[int, ...]) -> bool:
        """Whether there are slices of this shape."""
        cubes = len(shape) == len(self.shapes[-1]) == 3 and all(side and side % 4 == 0 for side in shape)
        return shape in self.shapes or (cubes and math.prod(shape) <= self.largest and list(shape) == sorted(shape))


CHIPS = {
    "v4": Chip("TPU v4", int(30.75 * GIB), 300e9, CUBIC, 4096),
    "v5e": Chip("TPU v5 lite", int(15.75 * GIB), 200e9, FLAT, 256),
    "v5p": Chip("TPU v5", int(95.74 * GIB), 600e9, CUBIC, 6144),
    "v6e": Chip("TPU v6 lite", int(31.25 * GIB), 400e9, FLAT, 256),
    "a100": Chip("NVIDIA A100-SXM4-80GB", int(79.1 * GIB), 300e9, island=HOST_GPUS, network=200e9 / 8, latency=5e-6),
    "h100": Chip("NVIDIA H100 80GB HBM3", int(79.1 * GIB), 450e9, island=HOST_GPUS, network=400e9 / 8, latency=5e-6),
}


@dataclass(frozen=True)
class Target:
    """A number of devices of one kind.

    Attributes:
      name: the text that was asked for, such as `v5e:16x16`.
      shape: of the slice; empty for GPUs and for a single chip, which is the first of the smallest slice.
    """

    name: str
    chip: Chip = field(repr=False)
    devices: int
    shape: tuple[int, ...] = ()


def parse_target(text: str) -> Target:
    """`v5e:4x4`, `v5e:16` (the slice of 16 chips), `v5e:1`, `h100:8`, `h100:64` (eight hosts of eight).

    Raises:
      ConfigError: an unknown device, or a slice or number of GPUs that is not offered; names those that are.
    """
    name, _, size = text.strip().lower().partition(":")
    if name not in CHIPS:
        raise ConfigError(unknown_name("target", name, CHIPS))
    chip = CHIPS[name]
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", size):
        raise ConfigError(f"target {text!r} does not say how many devices; write {_examples(name, chip)}")
    sides = tuple(map(int, size.split("x")))
    return Target(f"{name}:{size}", chip, *(_slice if chip.is_tpu else _hosts)(name, chip, sides))


def _slice(name: str, chip: Chip, sides: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    count, asked = math.prod(sides), "x".join(map(str, sides))
    if count == 1:
        return 1, ()
    shape = next((shape for shape in chip.shapes if math.prod(shape) == count), ()) if len(sides) == 1 else sides
    if not shape or not chip.allows(shape):
        known = ", ".join("x".join(map(str, shape)) for shape in chip.shapes)
        cubes = f", and sides that are multiples of 4, the smallest first, up to {chip.largest} chips"
        rule = cubes if len(chip.shapes[-1]) == 3 else ""
        raise ConfigError(f"there is no {name} slice of {asked}; possible are 1 (one chip), {known}{rule}")
    return count, shape


def _hosts(name: str, chip: Chip, sides: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    if len(sides) > 1:
        raise ConfigError(
            f"{name}:{'x'.join(map(str, sides))} is a shape, and GPUs are only counted; write {name}:{math.prod(sides)}"
        )
    (count,) = sides
    if count > chip.island and count % chip.island:
        raise ConfigError(
            f"{name}:{count} is not a number of whole hosts: 1 to {chip.island} GPUs are on one host, and more must be "
            f"a multiple of {chip.island}; the nearest: {nearest_multiples(count, chip.island)}"
        )
    return count, ()


def _examples(name: str, chip: Chip) -> str:
    if not chip.is_tpu:
        return f"{name}:1, {name}:8 or {name}:64"
    return f"{name}:1 or {name}:{'x'.join(map(str, chip.shapes[2]))}"
