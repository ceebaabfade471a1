"""How long devices take to exchange their results, and what more devices would bring: projected, not measured."""

import math
from collections.abc import Iterable

from resnet_jax.cost.collectives import Collective
from resnet_jax.cost.targets import Chip

# Usable part of a link's bandwidth. A slice of TPUs that is no whole torus lacks the links that close the rings: half.
USABLE = 0.8
USABLE_OF_SLICES = 0.4


def exchanged_bytes(collectives: Iterable[Collective]) -> float:
    """What each device would send in rings of very many devices: twice the bytes of an all-reduce, once those of
    others.
    """
    return sum((2 if collective.kind == "all-reduce" else 1) * collective.bytes for collective in collectives)


def wire_seconds(chip: Chip, exchanged: float, devices: int, usable: float = 1.0) -> float:
    """Seconds on the links: one ring, or rings within islands and one ring between them. With `usable` = 1 a floor."""
    inner = min(chip.island or devices, devices)
    outer = devices // inner
    seconds = (inner - 1) / inner * exchanged / (usable * chip.link)
    if outer > 1:
        seconds += (outer - 1) / outer * exchanged / inner / (usable * chip.network)
    return seconds


def exchange_seconds(chip: Chip, exchanged: float, devices: int, exchanges: int = 1) -> float:
    """Seconds as assumed: part of the bandwidth, and a latency for each of the 2 log2(devices) steps of an exchange."""
    if devices == 1:
        return 0.0
    usable = USABLE_OF_SLICES if chip.is_tpu else USABLE
    latency = exchanges * chip.latency * 2 * math.log2(devices)
    return wire_seconds(chip, exchanged, devices, usable) + latency


def efficiency(
    chip: Chip, compute_seconds: float, exchanged: float, devices: int, exchanges: int = 1
) -> tuple[float, float]:
    """Images per second and device, relative to one device. The first figure hides nothing of the exchange, the second
    as much as fits behind the backward pass, which takes two thirds of `compute_seconds`.
    """
    exchange = exchange_seconds(chip, exchanged, devices, exchanges)
    hidden = max(0.0, exchange - 2 / 3 * compute_seconds)
    return compute_seconds / (compute_seconds + exchange), compute_seconds / (compute_seconds + hidden)
