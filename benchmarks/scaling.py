"""How training would scale: compiles the full step for many virtual devices, and projects from stated assumptions.

    python benchmarks/scaling.py                                       # ResNet-50 and 152 for 1, 8, 64, 256 devices
    python benchmarks/scaling.py --models resnet50 --devices 512

What is exchanged is read off the compiled programs. Nothing is run: times follow from the assumptions that are printed
with them, and are no measurements. Weak scaling: every device has the same number of images, whatever their number.
"""

import json
import os
import subprocess
import sys
import time

import tyro

from resnet_jax.cost.scaling import USABLE, USABLE_OF_SLICES, efficiency
from resnet_jax.cost.targets import CHIPS

# Peaks and links are those of `resnet_jax/cost/targets.py` and `peaks.py`. What of the peak ResNet-50 reaches follows
# from MLPerf training: 29 % on TPU v4 (v1.0, 64 chips; assumed for v5e and v5p too), 18 % on H100 (v4.0).
REACHED = {"v4": 0.29, "v5e": 0.29, "v5p": 0.29, "h100": 0.18}
IMAGES = 64  # on each device


def projected(name: str, flops: float, total_bytes: float, devices: int) -> tuple[float, float]:
    """`scaling.efficiency` of one all-reduce of `total_bytes`."""
    chip = CHIPS[name]
    return efficiency(chip, flops / (chip.peak.flops_16 * REACHED[name]), 2 * total_bytes, devices)


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
    print("Assumed: a latency for each of 2 log2(devices) steps, and of the machines:")
    for name, reached in REACHED.items():
        chip = CHIPS[name]
        network = f", {chip.network / 1e9:.0f} GB/s between groups of {chip.island}" if chip.island else ""
        usable = USABLE_OF_SLICES if chip.is_tpu else USABLE
        print(
            f"  {name:<8} {chip.peak.flops_16 / 1e12:.0f} TFLOP/s, {reached:.0%} reached; "
            f"{chip.link / 1e9:.0f} GB/s sent{network}, {usable:.0%} usable; {chip.latency * 1e6:.0f} us"
        )
    print("\nEfficiency: exchange after the arithmetic - exchange hidden behind the backward pass.\n")
    names = " | ".join(REACHED)
    print(f"| model | devices | collectives | MB per step | MB sent per device | {names} | compiled in |")
    print("|--|" + "--|" * (5 + len(REACHED)))
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
            ranges = [projected(chip, found["flops"], found["bytes"], count) for chip in REACHED]
            cells = " | ".join(f"{low:.0%} - {high:.0%}" for low, high in ranges)
            row = [name, count, counts, f"{found['bytes'] / 1e6:.1f}", f"{found['wire_bytes'] / 1e6:.1f}", cells]
            print("|", *(f"{cell} |" for cell in row), f"{time.perf_counter() - started:.0f} s |", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
