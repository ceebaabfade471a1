"""How long devices take to exchange what they computed, and what more of them would bring: projected, not measured."""

import math
from collections.abc import Iterable

from resnet_jax.cost.collectives import Collective
from resnet_jax.cost.targets import Chip

# Of a link's bandwidth. A slice of TPUs that is no whole torus lacks the links that close the rings: half is taken.
USABLE = 0.8
USABLE_OF_SLICES = 0.4


def exchanged_bytes(collectives: Iterable[Collective]) -> float:
    """What each device would send in rings of endlessly many: twice the bytes of an all-reduce, once of others."""
    return sum((2 if collective.kind == "all-reduce" else 1) * collective.bytes for collective in collectives)


def wire_seconds(chip: Chip, exchanged: float, devices: int, usable: float = 1.0) -> float:
    """On the links: a ring, or rings within islands around one between them. A floor where all of a link is usable."""
    inner = min(chip.island or devices, devices)
    outer = devices // inner
    seconds = (inner - 1) / inner * exchanged / (usable * chip.link)
    if outer > 1:
        seconds += (outer - 1) / outer * exchanged / inner / (usable * chip.network)
    return seconds


def exchange_seconds(chip: Chip, exchanged: float, devices: int, exchanges: int = 1) -> float:
    """As it is assumed: part of the bandwidth, and a latency for each of the 2 log2(devices) steps of an exchange."""
    if devices == 1:
        return 0.0
    usable = USABLE_OF_SLICES if chip.is_tpu else USABLE
    latency = exchanges * chip.latency * 2 * math.log2(devices)
    return wire_seconds(chip, exchanged, devices, usable) + latency


def efficiency(
    chip: Chip, compute_seconds: float, exchanged: float, devices: int, exchanges: int = 1
) -> tuple[float, float]:
    """Images per second and device, relative to one device: with nothing and with all of the exchange hidden behind the
    backward pass, two thirds of `compute_seconds`."""
    exchange = exchange_seconds(chip, exchanged, devices, exchanges)
    hidden = max(0.0, exchange - 2 / 3 * compute_seconds)
    return compute_seconds / (compute_seconds + exchange), compute_seconds / (compute_seconds + hidden)
