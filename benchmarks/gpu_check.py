"""Everything that wants to be seen on a GPU, in under 8 minutes: is it right, how fast is it, what takes the time.

    python benchmarks/gpu_check.py --out runs/gpu_check            # one H100 or H200
    python benchmarks/gpu_check.py --out runs/gpu_check --parts parity
    python benchmarks/gpu_check.py --out /tmp/check --tiny         # on any machine, to see that it works

Needs a checkout, jax, flax, optax and orbax; torch and torchvision to compare with. In this order:

- parity: ResNet-50 and a network like ResNet-152, forward pass and training step on the device beside float64 on the
  CPU, in float32 at the highest precision and in bfloat16, with the layers in the form for this device and in that for
  CPUs;
- the tables of `benchmarks/step.py` for ResNet-50 and ResNet-152, in bfloat16, training first;
- the five kernels that take most of our training step of ResNet-50.

What is found is printed and written to FOLDER/gpu_check.json and gpu_check.md as soon as it is there. A part that
fails, or ends its process, is reported, and the others go on. Ends with status 1 where something failed or differs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several processes share the device's memory
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a checkout that is not installed

from device_parity import TOLERANCES, Deviation, deviations
from device_profile import KernelTime, largest_kernels
from seat import CannotRun, Process, start_apart
from step import Table, build, time_peers

PARTS = ("parity", "timing", "profile")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch", "torchvision")


@dataclass(frozen=True)
class Sizes:
    """What is looked at. `tables` are `(network, train, batch size, part of the time)`, in order of importance."""

    parity: tuple[str, ...] = ("resnet50", "resnet152-like")
    parity_batch: int = 16
    parity_side: int = 97  # odd: even sides hide wrong padding
    tables: tuple[tuple[str, bool, int, int], ...] = (
        ("resnet50", True, 256, 3),
        ("resnet152", True, 256, 6),
        ("resnet50", False, 256, 1),
        ("resnet152", False, 256, 2),
    )
    dtype: str = "bfloat16"
    peers: tuple[str, ...] = ("flax", "eager", "compile")
    rounds: int = 5
    round_seconds: float = 0.5
    profile: tuple[str, int] = ("resnet50", 256)


TINY = Sizes(
    parity=("cifar_resnet20",),
    parity_batch=4,
    parity_side=33,
    tables=(("resnet18", True, 2, 9), ("digits", False, 4, 1)),
    peers=("flax", "eager"),
    rounds=1,
    round_seconds=0.01,
    profile=("digits", 4),
)
# Below this much memory the four programs of a table for ResNet-152 do not lie beside each other with 256 images.
ROOMY = 100e9


@dataclass
class Findings:
    """What is known so far. `failures` says for a part why it has no result, or not all."""

    environment: dict[str, Any] = field(default_factory=dict)
    parity: list[Deviation] = field(default_factory=list)
    timing: list[Table] = field(default_factory=list)
    profile: list[KernelTime] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return not self.failures and all(deviation.passed for deviation in self.parity)

    def write(self, folder: Path) -> None:
        content = asdict(self) | {"passed": self.passed}
        (folder / "gpu_check.json").write_text(json.dumps(content, indent=1) + "\n")
        (folder / "gpu_check.md").write_text(to_markdown(self))


def to_markdown(found: Findings) -> str:
    lines = ["# What this device computes, and how fast", ""]
    lines.append(", ".join(f"{name} {value}" for name, value in found.environment.items()))
    lines += [f"\n**{part}**: {why}" for part, why in found.failures.items()]
    if found.parity:
        lines += ["", "## Parity with float64 on the CPU", "", "The difference by the whole, as 2-norms.", ""]
        lines += markdown_table(
            ("network", "form", "dtype", "quantity", "error", "tolerance", ""),
            [
                (d.network, d.form, d.dtype, d.quantity, f"{d.error:.1e}", f"{d.tolerance:g}", verdict(d))
                for d in found.parity
            ],
        )
    for table in found.timing:
        ours = table.rows[0].images_per_second
        lines += ["", f"## {table.title}", ""]
        lines += markdown_table(
            ("", "images/s", "ms", "compile s", "peak GB", "MFU", "ours/this"),
            [
                (
                    row.program,
                    f"{row.images_per_second:,.1f}",
                    f"{row.milliseconds:.2f}",
                    f"{row.compile_seconds:.0f}",
                    f"{row.peak_bytes / 1e9:.1f}" if row.peak_bytes else "-",
                    "-" if row.mfu is None else f"{row.mfu:.1%}",
                    f"{ours / row.images_per_second:.2f}x",
                )
                for row in table.rows
            ],
        )
        lines += [f"\n{peer}: {why}" for peer, why in table.absent.items()]
        if table.floors:
            floors = ", ".join(f"{name} {rate:,.0f}" for name, rate in table.floors.items())
            lines.append(f"\nAt most, images/s: {floors}")
    if found.profile:
        lines += ["", "## The largest kernels of our training step", ""]
        lines += markdown_table(
            ("kernel", "kind", "ms", "share", "GB/s", "from"),
            [
                (
                    k.name,
                    k.kind,
                    f"{k.milliseconds:.3f}",
                    f"{k.share:.1%}",
                    f"{k.bytes_per_second / 1e9:,.0f}",
                    k.source,
                )
                for k in found.profile
            ],
        )
    return "\n".join(lines) + "\n"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["--"] * len(head), *rows)]


def verdict(deviation: Deviation) -> str:
    return "ok" if deviation.passed else "DIFFERS"


# What processes of their own do, so that this one survives them and never holds the device.


def describe_device() -> dict[str, Any]:
    import jax

    devices = jax.devices()
    memory = (devices[0].memory_stats() or {}).get("bytes_limit", 0)
    return {"device": devices[0].device_kind, "devices": len(devices), "memory": memory}


def profile_step(name: str, batch_size: int, dtype: str) -> list[KernelTime]:
    return largest_kernels(build("ours", name, batch_size, dtype, train=True))


# The parts.


def check_parity(found: Findings, sizes: Sizes, patience: float) -> None:
    """All at once: nothing is timed, and compiling takes most of it."""
    deadline = time.perf_counter() + patience
    work: dict[str, Process] = {}
    for name, form, dtype in product(sizes.parity, ("", "cpu"), TOLERANCES):
        call = partial(deviations, name, form, dtype, batch_size=sizes.parity_batch, image_size=sizes.parity_side)
        work[f"{name}, {dtype}, in the form for {form or 'this device'}"] = start_apart(call)
    for what, process in work.items():
        try:
            found.parity += process.answer(max(0.0, deadline - time.perf_counter()))
        except CannotRun as error:
            found.failures[f"parity of {what}"] = str(error)
    for d in found.parity:
        print(f"{d.network} {d.form} {d.dtype} {d.quantity}: {d.error:.1e} of {d.tolerance:g}: {verdict(d)}")


def time_everything(found: Findings, sizes: Sizes, deadline: float, save: Callable[[], None]) -> None:
    for place, (name, train, batch_size, part) in enumerate(sizes.tables):
        if name == "resnet152" and train and found.environment.get("memory", 0) < ROOMY:
            batch_size //= 2
        what = f"{name}, {'training step' if train else 'forward pass'}"
        now = time.perf_counter()
        if now > deadline:
            found.failures[what] = "the budget was spent before its turn"
            continue
        try:
            table = time_peers(
                name,
                train=train,
                peers=sizes.peers,
                batch_size=batch_size,
                dtype=sizes.dtype,
                rounds=sizes.rounds,
                round_seconds=sizes.round_seconds,
                deadline=now + (deadline - now) * part / sum(table[-1] for table in sizes.tables[place:]),
                torch_beside=(os.cpu_count() or 1) >= 8,
            )
        except CannotRun as error:
            found.failures[what] = str(error)
            print(f"\n{what}: cannot run here: {error}", flush=True)
            continue
        found.timing.append(table)
        print(f"\n{table}", flush=True)
        save()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--tiny", action="store_true", help="small networks and batches")
    parser.add_argument("--budget", type=float, default=450, help="seconds in all (default 450)")
    options = parser.parse_args(arguments)
    sizes, started = TINY if options.tiny else Sizes(), time.perf_counter()
    options.out.mkdir(parents=True, exist_ok=True)
    found = Findings()
    save = partial(found.write, options.out)

    def left() -> float:
        return max(0.0, options.budget - (time.perf_counter() - started))

    found.environment = {"date": time.strftime("%Y-%m-%d"), "commit": commit()} | versions()
    try:
        found.environment |= start_apart(describe_device).answer(left())
    except CannotRun as error:
        found.failures["device"] = str(error)
    print(", ".join(f"{name} {value}" for name, value in found.environment.items()), flush=True)
    save()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = cache  # what is profiled was compiled to be timed
        if "parity" in options.parts:
            check_parity(found, sizes, left() * 0.4)
            save()
        if "timing" in options.parts:
            # The last seconds are for the profile.
            time_everything(found, sizes, time.perf_counter() + left() * 0.9, save)
        if "profile" in options.parts:
            try:
                work = start_apart(partial(profile_step, *sizes.profile, sizes.dtype))
                found.profile += work.answer(max(60.0, left()))
            except CannotRun as error:
                found.failures["profile"] = str(error)
            for k in found.profile:
                print(f"{k.milliseconds:8.3f} ms {k.share:6.1%}  {k.name}  {k.kind}  {k.source}")
    save()
    for part, why in found.failures.items():
        print(f"{part}: {why}")
    print(
        f"{'PASS' if found.passed else 'FAIL'} in {time.perf_counter() - started:.0f} s; see {options.out}/gpu_check.md"
    )
    return 0 if found.passed else 1


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
