"""`train.py --dry-run`: what a step will take on devices of this machine, or on devices that it does not have."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import jax

from resnet_jax.config import Config
from resnet_jax.cost.aot import compile_ahead
from resnet_jax.cost.forecast import TRAIN_STEP, CompileStep, forecast, forecast_for, some_devices
from resnet_jax.cost.report import compare, describe
from resnet_jax.cost.targets import parse_target
from resnet_jax.errors import CompileError, ConfigError
from resnet_jax.models.headed import resnet_in
from resnet_jax.tasks.assemble import build_model
from resnet_jax.training.step import is_separable

BUSY = 32  # images that keep a device busy at once (docs/pods.md)


def dry_run(
    config: Config,
    devices: str,
    say: Callable[[str], None] = lambda line: None,
    compile_step: CompileStep = compile_ahead,
) -> str:
    """The report of `--dry-run`.

    Args:
      devices: a number (of this machine's devices, or of virtual devices of its CPU), or a target such as `v5e:4x4`.
      say: is called with what is being compiled, since that takes minutes.
    Raises:
      ConfigError: the devices are impossible, or cannot share the batch.
      CompileError: the step could not be compiled.
    """
    if devices.isdecimal() and int(devices):
        return describe(forecast(config, some_devices(int(devices))))
    target = parse_target(devices)
    jax.config.update("jax_platforms", "cpu")  # only shapes are computed here: leave real devices alone
    found = forecast_for(config, target, compile_step)
    if found.fits:
        return describe(found)
    tried = []
    for option, changed in remedies(config, target.devices):
        say(f"does not fit: {compare(found.peak_bytes, target.chip)}; compiling it with {option} ...")
        try:
            other = compile_step(target, TRAIN_STEP, changed)
        except CompileError as error:
            tried.append(f"{option}: {error}")
            continue
        needed = compare(other.peak_bytes, target.chip)
        if other.fits:
            return describe(found, f"{option} would: {needed} (compiled, not estimated)")
        tried.append(f"{option}: {needed}")
    instead = "fewer images on each device, or devices with more memory"
    return describe(found, f"nor with {'; '.join(tried)}. What is left: {instead}" if tried else instead)


def remedies(config: Config, devices: int) -> Iterator[tuple[str, Config]]:
    """`(option, config with it)` for options that save memory and do not change the result; the cheapest in time first.

    Parts cost nearly no time as long as they keep a device busy. Then come stages that compute their activations again,
    and last small parts.
    """
    stages = tuple(range(1, len(resnet_in(build_model(config)).stage_sizes) + 1))
    remat = [
        (f"--model.remat {' '.join(map(str, taken))}", replace(config, model=replace(config.model, remat=taken)))
        for taken in (stages[:2], stages)
        if set(taken) > set(config.model.remat)
    ]
    large: list[tuple[str, Config]] = []
    small: list[tuple[str, Config]] = []
    for parts in (config.accumulate * factor for factor in (2, 4, 8) if config.model.bn_group_size):
        try:
            is_separable(config.batch_size, config.model.bn_group_size, config.mix_group_size, devices, parts)
        except ConfigError:
            continue
        busy = config.batch_size // devices // parts >= BUSY
        (large if busy else small).append((f"--accumulate {parts}", replace(config, accumulate=parts)))
    yield from (*large, *remat, *small)
