"""`python -m resnet_jax benchmark resnet50`"""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional


def benchmark(
    model: Positional[str],
    batch_size: int = 16,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    image_size: int | None = None,
    frames: int = 16,
    rounds: int = 5,
    profile: Path | None = None,
) -> None:
    """Measure the forward pass and the training step of a network on this machine, on images that lie in its memory.

    MFU is the share of the device's published peak that the network's own arithmetic reaches. The floor is the least
    time per image that arithmetic or memory allow. Both are shown only for devices whose peak is known. With several
    devices the batch is split over them.

    Args:
        model: A name that `python -m resnet_jax models` lists.
        batch_size: Images per step, over all devices.
        dtype: Type of activations and products; parameters are float32.
        image_size: Height and width in pixels; by default 224, 112 for an iresnet and for clips, or 32 for networks
            with the CIFAR stem.
        frames: Length of the clips that a network in space and time sees.
        rounds: Number of measurements; the medians are shown.
        profile: Write a trace of training steps to this folder, for TensorBoard's profile plug-in or xprof.
    """
    import jax
    import jax.numpy as jnp

    from resnet_jax.cost import speed
    from resnet_jax.cost.count import axes_of, measure, usual_size
    from resnet_jax.cost.peaks import peak_of
    from resnet_jax.errors import ConfigError
    from resnet_jax.models import create_model

    devices = jax.devices()
    if batch_size < 1 or batch_size % len(devices):
        raise ConfigError(f"--batch-size {batch_size} is not a positive multiple of the {len(devices)} device(s)")
    net = create_model(model, dtype=jnp.dtype(dtype))
    size = image_size or usual_size(net)
    clips = len(axes_of(net, size)) == 3
    outputs, length = speed.outputs_of(net), frames if clips else None
    images, labels = speed.synthetic_batch(batch_size, size, 3, outputs, frames=length)
    programs = [speed.forward_program(net, images), speed.train_program(net, images, labels)]
    seconds = speed.time_in_turns({program.name: program.turn for program in programs}, rounds)
    cost, peak = measure(net, image_size=size, frames=frames), peak_of(devices[0])

    pixels = f"{frames} frames of {size}x{size}" if clips else f"{size}x{size}"
    print(f"{model}, {pixels}, batch {batch_size}, {dtype}, {len(devices)} x {devices[0].device_kind}")
    print(f"{'':8}  images/s   ms/step  compile s   peak GB     MFU  floor, images/s")
    for program in programs:
        train = program.name == "train"
        rate = program.images / seconds[program.name]
        memory = f"{program.peak_bytes / 1e9:.2f}" if program.peak_bytes else "-"
        mfu = limit = "-"
        if peak:
            flops = speed.flops_per_image(cost, train=train)
            floor = speed.floor(cost, peak, dtype, train=train)
            mfu = f"{rate * flops / (len(devices) * peak.flops(dtype)):.1%}"
            limit = f"{len(devices) / max(floor.flops_seconds, floor.bytes_seconds):,.0f} ({floor.binding})"
        print(
            f"{program.name:8}  {rate:>8,.1f}  {1e3 * seconds[program.name]:>8,.1f}  {program.compile_seconds:>9.1f}  "
            f"{memory:>8}  {mfu:>6}  {limit}"
        )
    if profile:
        speed.trace(programs[-1], profile)
        print(f"A trace of 3 training steps is in {profile}; open it with: tensorboard --logdir {profile}")
