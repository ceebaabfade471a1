"""Writes a forecast as lines for people."""

from resnet_jax.cost.collectives import count_collectives
from resnet_jax.cost.count import count_parameters
from resnet_jax.cost.forecast import Forecast
from resnet_jax.cost.scaling import efficiency, exchanged_bytes, wire_seconds
from resnet_jax.cost.targets import Chip, Target
from resnet_jax.tasks.assemble import build_model

DEFAULT_SHARE = 0.75  # of a GPU's memory: JAX takes this unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise
SCALED_TO = {"tpu": (4, 16, 64, 256), "gpu": (8, 64, 512)}


def describe(found: Forecast, remedy: str = "") -> str:
    """What a training step takes. For a target also what the device has, the floors and the scaling.

    Args:
      remedy: printed beside the verdict if the step does not fit.
    """
    config, share = found.config, found.config.batch_size // found.devices
    parts = f", in {config.accumulate} parts" if config.accumulate > 1 else ""
    groups = config.model.bn_group_size or config.batch_size
    counts = ", ".join(f"{number} {kind}" for kind, number in count_collectives(found.collectives).items())
    devices = f"{found.devices} device(s) ({found.platform})"
    needed = compare(found.peak_bytes, found.target.chip) if found.target else _size(found.peak_bytes)
    lines = [
        f"One update of {config.model.name}, compiled for {devices}; nothing was run",
        f"  batch               {config.batch_size} images, {share} on each device{parts}; BatchNorm over {groups}",
        f"  memory per device   {needed}: state {_size(found.state_bytes)}, "
        f"batch {_size(found.batch_bytes)}, activations and scratch {_size(found.temporary_bytes)}",
        f"                      the forward pass keeps {_size(found.kept_bytes)} for the backward pass",
        f"  arithmetic          {found.flops / 1e12:.3f} TFLOP per device",
        f"  collectives         {counts or 'none'}",
        f"  on the wire         {_size(found.wire_bytes)} sent by each device",
    ]
    if found.target and found.hbm_bytes is not None:
        lines.insert(3, f"                      {_verdict(found, found.target.chip, remedy)}")
        traffic = f"{_size(found.hbm_bytes)} per device, {found.hbm_bytes / share / 1e6:.0f} MB per image"
        lines.insert(5, f"  memory traffic      {traffic}")
        lines += _floors(found, found.target, found.hbm_bytes, share)
    if any(collective.repeated for collective in found.collectives):
        lines.append("  (a collective lies in a loop or a branch, and is counted once)")
    if config.distil.teacher:
        lines.append("  The teacher (distil.teacher) is not counted: its weights, and its forward pass in each update.")
    if found.platform == "cpu":
        lines.append("  Memory is as XLA for CPUs lays it out to save memory; a GPU or TPU differs.")
    return "\n".join(lines)


def compare(peak_bytes: int, chip: Chip) -> str:
    """What a program needs and what a device has, as `17.35 of 16.91 GB`."""
    return f"{peak_bytes / 1e9:.2f} of {chip.memory / 1e9:.2f} GB"


def _verdict(found: Forecast, chip: Chip, remedy: str) -> str:
    if not found.fits:
        return f"does not fit: {compare(found.peak_bytes, chip)}" + (f"; {remedy}" if remedy else "")
    if not chip.is_tpu and found.peak_bytes > DEFAULT_SHARE * chip.memory:
        return "fits, if XLA_PYTHON_CLIENT_MEM_FRACTION=.97 is set: JAX takes 75 % of a GPU's memory otherwise"
    return "fits"


def _floors(found: Forecast, target: Target, hbm_bytes: int, share: int) -> list[str]:
    """The least time that a step can take, and the speed per device that more devices would have at that time."""
    chip, dtype = target.chip, found.config.model.dtype
    arithmetic = found.flops / chip.peak.flops("float32" if dtype == "tf32" else dtype)
    memory = hbm_bytes / chip.peak.bytes
    exchanged = exchanged_bytes(found.collectives)
    wire = wire_seconds(chip, exchanged, found.devices)
    step = max(arithmetic, memory)

    def floor(name: str, seconds: float, why: str) -> str:
        rate = found.devices * share / seconds
        return f"  {'floor, ' + name:<20}{1e3 * seconds:.2f} ms, {rate:,.0f} images/s ({why})"

    passes = "; float32 in full takes more passes" if dtype == "float32" else ""
    lines = [
        floor("arithmetic", arithmetic, f"{found.flops / arithmetic / 1e12:.0f} TFLOP/s{passes}"),
        floor("memory", memory, f"{chip.peak.bytes / 1e12:.2f} TB/s"),
    ]
    if wire:
        links = f"{chip.link / 1e9:.0f} GB/s"
        if chip.island and found.devices > chip.island:
            links += f" within a host, {chip.network / 1e9:.0f} GB/s between hosts"
        lines.append(floor("wire", wire, f"{links}; may hide behind the backward pass"))
    lines.append(f"  what binds          {'memory' if memory > arithmetic else 'arithmetic'}")
    return lines + _scaling(found, target, step, exchanged)


def _scaling(found: Forecast, target: Target, step: float, exchanged: float) -> list[str]:
    chip, assumed = target.chip, ""
    if not found.collectives:
        if not found.config.model.bn_group_size:
            return ["  more devices        compile for two or more: BatchNorm over the whole batch needs exchanges too"]
        exchanged = 2 * 4 * count_parameters(build_model(found.config), channels=found.config.data.channels)
        assumed = "assumed: one all-reduce of the gradients"
    exchanges = max(1, len(found.collectives))
    rows = []
    for devices in SCALED_TO["tpu" if chip.is_tpu else "gpu"]:
        low, high = efficiency(chip, step, exchanged, devices, exchanges)
        rows.append(f"{devices}: {low:.0%}" + (f" - {high:.0%}" if f"{high:.0%}" != f"{low:.0%}" else ""))
    what = "speed per device at this floor, with nothing and with all of the exchange hidden"
    lines = [f"  more devices        {', '.join(rows)}", f"                      ({what})"]
    return lines + [f"                      ({assumed})"] * bool(assumed)


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
