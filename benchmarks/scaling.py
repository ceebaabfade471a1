"""How training would scale: compiles the full step for many virtual devices, and projects from stated assumptions.

    python benchmarks/scaling.py                                       # ResNet-50 and 152 for 1, 8, 64, 256 devices
    python benchmarks/scaling.py --models resnet50 --devices 512

What is exchanged is read off the compiled programs. Nothing is run: times follow from the assumptions that are printed
with them, and are no measurements. Weak scaling: every device has the same number of images, whatever their number.
"""

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import dataclass

import tyro

# Dense bfloat16 peak and bandwidths are the makers' figures: Google's pages of the TPU generations (2400, 1600 and 4800
# Gbit/s of interconnect per chip, of which half is taken here, as if it were both directions), NVIDIA's data sheets of
# the H100 SXM (NVLink, 900 GB/s in both directions) and of ConnectX-7 (400 Gbit/s). What of the peak ResNet-50 reaches
# follows from MLPerf training: 29 % on TPU v4 (v1.0, 64 chips; assumed for v5e and v5p too), 18 % on H100 (v4.0).
USABLE = 0.8  # of a link's bandwidth
IMAGES = 64  # on each device


@dataclass(frozen=True)
class Machine:
    """One kind of device, and how it is connected.

    Attributes:
      peak: FLOP per second; `reached` of it.
      link: bytes per second that a device sends to its neighbours, all links together.
      island: devices that `link` connects; 0 = all.
      network: bytes per second of one device between islands.
      latency: seconds of one step of an exchange, of which there are 2 log2(devices).
    """

    name: str
    peak: float
    reached: float
    link: float
    island: int = 0
    network: float = 0.0
    latency: float = 1e-6


MACHINES = (
    Machine("TPU v4", peak=275e12, reached=0.29, link=2400e9 / 8 / 2),
    Machine("TPU v5e", peak=197e12, reached=0.29, link=1600e9 / 8 / 2),
    Machine("TPU v5p", peak=459e12, reached=0.29, link=4800e9 / 8 / 2),
    Machine("H100", peak=989e12, reached=0.18, link=450e9, island=8, network=400e9 / 8, latency=5e-6),
)


def exchange_seconds(machine: Machine, total_bytes: float, devices: int) -> float:
    """Of an all-reduce of `total_bytes`: a ring, or rings within islands around one between them."""
    if devices == 1:
        return 0.0
    inner = min(machine.island or devices, devices)
    outer = devices // inner
    seconds = 2 * (inner - 1) / inner * total_bytes / (USABLE * machine.link)
    if outer > 1:
        seconds += 2 * (outer - 1) / outer * total_bytes / inner / (USABLE * machine.network)
    return seconds + machine.latency * 2 * math.log2(devices)


def efficiency(machine: Machine, flops: float, total_bytes: float, devices: int) -> tuple[float, float]:
    """Images per second and device, relative to one device: with nothing and with all of it hidden behind the backward
    pass, two thirds of the arithmetic."""
    compute = flops / (machine.peak * machine.reached)
    exchange = exchange_seconds(machine, total_bytes, devices)
    return compute / (compute + exchange), compute / (compute + max(0.0, exchange - 2 / 3 * compute))


def compile_one(name: str, devices: int) -> None:
    """Prints, as JSON, what the step of `name` for `devices` devices exchanges and takes."""
    from resnet_jax import Config, DataConfig, ModelConfig
    from resnet_jax.cost.collectives import count_collectives
    from resnet_jax.cost.forecast import forecast, some_devices

    config = Config(
        model=ModelConfig(name=name, bn_group_size=32, dtype="bfloat16"),
        data=DataConfig(name="synthetic"),
        batch_size=IMAGES * devices,
    )
    found = forecast(config, some_devices(devices))
    print(
        json.dumps(
            {
                "counts": count_collectives(found.collectives),
                "bytes": sum(collective.bytes for collective in found.collectives),
                "wire_bytes": found.wire_bytes,
                "flops": found.flops,
                "state_bytes": found.state_bytes,
            }
        )
    )


def main(
    models: tuple[str, ...] = ("resnet50", "resnet152"),
    devices: tuple[int, ...] = (1, 8, 64, 256),
    one: bool = False,
) -> None:
    """Prints the table.

    Args:
        one: Only compile the first of each, and print what was found as JSON.
    """
    if one:
        compile_one(models[0], devices[0])
        return
    print(f"{IMAGES} images of 224 pixels on each device, bfloat16, BatchNorm over 32 images; gradients are float32.")
    print(f"Assumed: {USABLE:.0%} of each bandwidth; 2 log2(devices) steps of latency; and of the machines:")
    for machine in MACHINES:
        network = f", {machine.network / 1e9:.0f} GB/s between groups of {machine.island}" if machine.island else ""
        print(
            f"  {machine.name:<8} {machine.peak / 1e12:.0f} TFLOP/s, {machine.reached:.0%} reached; "
            f"{machine.link / 1e9:.0f} GB/s sent{network}; {machine.latency * 1e6:.0f} us"
        )
    print("\nEfficiency: exchange after the arithmetic - exchange hidden behind the backward pass.\n")
    names = " | ".join(machine.name for machine in MACHINES)
    print(f"| model | devices | collectives | MB per step | MB sent per device | {names} | compiled in |")
    print("|--|" + "--|" * (5 + len(MACHINES)))
    for name in models:
        for count in devices:
            started = time.perf_counter()
            command = [sys.executable, __file__, "--one", "--models", name, "--devices", str(count)]
            environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            found = json.loads(done.stdout.splitlines()[-1])
            counts = ", ".join(f"{number} {kind}" for kind, number in found["counts"].items()) or "none"
            projected = [efficiency(machine, found["flops"], found["bytes"], count) for machine in MACHINES]
            cells = " | ".join(f"{low:.0%} - {high:.0%}" for low, high in projected)
            row = [name, count, counts, f"{found['bytes'] / 1e6:.1f}", f"{found['wire_bytes'] / 1e6:.1f}", cells]
            print("|", *(f"{cell} |" for cell in row), f"{time.perf_counter() - started:.0f} s |", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
