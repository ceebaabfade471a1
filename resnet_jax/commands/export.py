"""`python -m resnet_jax export RUN_OR_WEIGHTS --format onnx --out DIR`"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from resnet_jax.config import AS_PUBLISHED, ClipConfig, PresetChange
from resnet_jax.display import plain_console

if TYPE_CHECKING:
    from resnet_jax.compress.quantize import Quantized
    from resnet_jax.run.network import Network
    from resnet_jax.run.predict import Run


def export(
    network: Positional[Annotated[str, tyro.conf.arg(metavar="[RUN]")]] = "",
    *,
    format: Literal["stablehlo", "onnx", "huggingface"],
    out: Path,
    batch: str | None = None,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    with_preprocessing: bool = False,
    int8: bool = False,
    quantized: Path | None = None,
    weights: str | None = None,
    model: str | None = None,
    checkpoint: Literal["last", "best"] = "last",
    entry: str | None = None,
    prefix: str | None = None,
    preset: PresetChange = AS_PUBLISHED,
) -> None:
    """Write a trained run or weights in a format that other programs run.

    stablehlo: a program for CPUs, GPUs and TPUs, which JAX runs without this package. onnx: for onnxruntime, OpenVINO
    and others. huggingface: a folder that timm loads, with a model card.

    In the first two, batch normalisation is folded into the convolutions; docs/deploy.md says more.

    Args:
        network: The folder that `train.py --workdir` filled; a weight file; or the name of a network whose weights are
            published, such as resnet50 or resnet50:IMAGENET1K_V1.
        format: What to write.
        out: A new folder for it.
        batch: How many images the program takes at a time: a number, or symbolic for any, which is the default.
        size: Height and width of the images that the program takes; by default those of evaluation, and of a
            segmentation a square of the evaluation's shorter side.
        frames: Of a network that sees clips: how many frames the program takes; by default those of the run, and 16 of
            weights without one.
        with_preprocessing: The program takes bytes (N, H, W, C) and scales them itself. It does not decode, resize or
            crop.
        int8: Write integers: of a run calibrated on 512 images of its training split, or those of --quantized. ONNX
            gets QDQ pairs.
        quantized: With --int8: the folder that the command quantize has filled for this network.
        weights: A published set such as IMAGENET1K_V2 (with --model), a weight file, or a repository of the Hugging
            Face hub such as timm/resnet50.a1_in1k.
        model: The network that the weights are for; without it the one that a file's keys and shapes are those of.
        checkpoint: Of a run: the newest, or the one with the best top-1 accuracy.
        entry: With --weights: which part of a training checkpoint to take, such as model_ema.
        prefix: With --weights: take the keys that begin with it, such as module.encoder_q., without it.
        preset: Without a run: how images are prepared, where it is not as the weights say, or they say nothing.
    """
    from resnet_jax.errors import ConfigError
    from resnet_jax.export.job import Job, check_out, check_packages

    if (not network) == (weights is None):
        raise ConfigError(
            "name one network: the folder of a run, a weight file or a published set such as resnet50:IMAGENET1K_V2; "
            "or --weights with --model"
        )
    if weights is None and (entry or prefix):
        raise ConfigError("--entry and --prefix are for --weights; name the file by --weights FILE")
    if batch not in (None, "symbolic") and not str(batch).isdecimal():
        raise ConfigError(f"--batch = {batch!r} must be a number of images, or symbolic for any number")
    if format == "huggingface" and (batch or size or frames is not None or with_preprocessing):
        raise ConfigError(
            "--format huggingface writes weights and no program, so it has no batch, symbolic or other, no size, no "
            "frames and no preprocessing inside; leave --batch, --size, --frames and --with-preprocessing out, or "
            "choose --format onnx"
        )
    if format == "huggingface" and int8:
        raise ConfigError(
            "--format huggingface writes numbers in floating point, since timm has no integers; leave --int8 out, or "
            "choose --format onnx"
        )
    if quantized and not int8:
        raise ConfigError(f"--quantized {quantized} is for --int8; add that, or leave it out")
    check_out(out)
    check_packages(format)

    from resnet_jax.run.named import network_of, open_named
    from resnet_jax.run.network import Network, load_network

    opened = (
        load_network(weights, model, entry=entry, prefix=prefix, preset=preset)
        if weights is not None
        else open_named(network, checkpoint, model, preset=preset)
    )
    if not isinstance(opened, Network) and preset != AS_PUBLISHED:
        raise ConfigError(
            f"--preset is for weights without a run; {network} says itself how its images are prepared. Leave it out"
        )
    named = opened if isinstance(opened, Network) else network_of(opened)
    source = weights or network
    if Path(source).exists():  # others need not know where the file lies here
        named = dataclasses.replace(named, title=named.title.replace(source, Path(source).name))
    console = plain_console()
    if format == "huggingface":
        from resnet_jax.export.card import Trained
        from resnet_jax.export.huggingface import write_huggingface

        name = write_huggingface(named, out, None if isinstance(opened, Network) else Trained(opened, network))
        console.print(f"{out} holds {named.title}, which timm calls {name}", soft_wrap=True)
        console.print(f'timm.create_model("local-dir:{out}", pretrained=True)', soft_wrap=True)
        return
    integers, how = _integers(opened, named, quantized) if int8 else (None, {})
    number = None if batch in (None, "symbolic") else int(batch)
    job = Job(named, number, size, with_preprocessing, _clips(opened, frames), integers, how)
    if format == "onnx":
        from resnet_jax.export.onnx_file import write_onnx

        norms = write_onnx(job, out)
    else:
        from resnet_jax.export.stablehlo import write_stablehlo

        norms = write_stablehlo(job, out)
    console.print(f"{out} holds {named.title} as {format}", soft_wrap=True)
    console.print(f"norms: {norms.folded} folded into convolutions, {norms.kept} kept")
    if integers:
        console.print(f"integers: {len(integers.scales.kernels)} kernels, {len(integers.scales.tensors)} tensors")
    console.print(f"before the program: {job.outside}", soft_wrap=True)
    console.print(f"inside the program: {job.inside}", soft_wrap=True)


def _clips(opened: "Run | Network", frames: int | None) -> ClipConfig:
    """How the frames of clips are taken.

    Raises:
      ConfigError: `frames` are asked for, and the network sees images; or they are less than 1.
    """
    from resnet_jax.errors import ConfigError
    from resnet_jax.run.clips import PUBLISHED
    from resnet_jax.run.named import sees_videos
    from resnet_jax.run.network import Network

    if frames is not None and not sees_videos(opened):
        raise ConfigError(
            f"--frames = {frames} is for networks that see clips, and {opened.title} sees images; leave it out"
        )
    clips = PUBLISHED if isinstance(opened, Network) else opened.config.data.clip
    return clips if frames is None else dataclasses.replace(clips, frames=frames)


def _integers(opened: "Run | Network", named: "Network", folder: Path | None) -> tuple["Quantized", dict[str, Any]]:
    """The network in integers, and how it was quantised."""
    from resnet_jax.compress.quantize import in_float32, quantize
    from resnet_jax.compress.quantize.store import FILE, load
    from resnet_jax.config import QuantizeConfig
    from resnet_jax.errors import ConfigError
    from resnet_jax.run.calibrate import calibration
    from resnet_jax.run.network import Network

    if folder is not None:
        return load(folder / FILE, in_float32(named.model, named.variables))
    if isinstance(opened, Network):
        raise ConfigError(
            f"--int8 calibrates on images that the network was trained on, and {named.title} comes without a run; "
            "quantize it first with --data.name, and name the folder by --quantized"
        )
    if opened.config.quantize.images:
        trained = opened.config.quantize
        return quantize(named.model, named.variables, list, trained), {"trained": True, **dataclasses.asdict(trained)}
    how = QuantizeConfig()
    batches, facts = calibration(named, opened.config.data, how)
    return quantize(named.model, named.variables, batches, how), facts
