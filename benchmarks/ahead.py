"""What the training step and the forward pass move through memory on devices that are not there, beside flax's example.

    python benchmarks/ahead.py                                                  # ResNet-50 for one v5e, v6e and H100
    python benchmarks/ahead.py --models resnet152 --targets v5e:1 h100:1
    python benchmarks/ahead.py --targets v4:1 v4:4 v5e:16x16 a100:8 --peers     # ours alone
    python benchmarks/ahead.py --targets h100:1 --kernels 12                    # with the kernels that move most

Each program is compiled by XLA for the target (`resnet_jax.cost.aot`), which needs the packages of the extras `aot-tpu`
and `aot-gpu`; an environment that has them is named by AOT_TPU and AOT_GPU, as for `make test-aot`. Images are of 224
pixels in bfloat16, 128 on each device. Ours is the step that `train.py` runs, with BatchNorm in groups of 32 images.
Nothing is run: these are bytes, not times. XLA for GPUs chooses its kernels anew on a device, by the clock.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a checkout that is not installed

from resnet_jax import Config, DataConfig, ModelConfig, OptimConfig
from resnet_jax.cost.aot import Compiled, compile_ahead
from resnet_jax.cost.targets import Target, parse_target
from resnet_jax.errors import ResnetJaxError

ROOT = Path(__file__).resolve().parent.parent
PER_DEVICE = 128
OURS = {"train": "resnet_jax.cost.programs:train_step", "forward": "resnet_jax.cost.programs:inference"}
EXAMPLE = {"train": "lower_train_step", "forward": "lower_forward"}


def python_of(target: Target) -> str:
    folder = os.environ.get("AOT_TPU" if target.chip.is_tpu else "AOT_GPU")
    return str(Path(folder) / "bin" / "python") if folder else sys.executable


def ours(model: str, program: str, target: Target) -> Compiled:
    images = PER_DEVICE * target.devices
    config = Config(
        model=ModelConfig(name=model, dtype="bfloat16", bn_group_size=32),
        data=DataConfig(name="tfds:imagenet2012"),
        optim=OptimConfig(no_decay=(r"bn",)),
        batch_size=images,
        eval_batch_size=images,
    )
    return compile_ahead(target, OURS[program], config, python=python_of(target))


def example(model: str, program: str, target: Target) -> Compiled:
    function = f"{ROOT}/benchmarks/flax_example.py:{EXAMPLE[program]}"
    return compile_ahead(target, function, model, PER_DEVICE, "bfloat16", python=python_of(target))


def row(model: str, program: str, target: Target, options: argparse.Namespace) -> None:
    found = ours(model, program, target)
    cells = [f"{model} {program}", target.name, f"{found.hbm_bytes / 1e9:.2f}"]
    cells.append(f"{found.hbm_bytes / 1e6 / PER_DEVICE:.0f}")
    if "flax" in options.peers:
        theirs = example(model, program, target)
        cells += [f"{theirs.hbm_bytes / 1e9:.2f}", f"{found.hbm_bytes / theirs.hbm_bytes:.2f}"]
        cells += [f"{found.temp_bytes / 1e9:.2f}", f"{theirs.temp_bytes / 1e9:.2f}"]
    else:
        cells += ["-", "-", f"{found.temp_bytes / 1e9:.2f}", "-"]
    cells += [str(len(found.collectives)), f"{found.wire_bytes / 1e6:.0f}", f"{found.seconds:.0f}"]
    print("| " + " | ".join(cells) + " |", flush=True)
    for kernel in found.largest_kernels(options.kernels):
        print(f"    {kernel.bytes / 1e6:7.0f} MB  {kernel.kind:28}  {kernel.source[-80:]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet50"])
    parser.add_argument("--targets", nargs="+", default=["v5e:1", "v6e:1", "h100:1"])
    parser.add_argument("--programs", nargs="+", choices=tuple(OURS), default=["train"])
    parser.add_argument("--peers", nargs="*", choices=("flax",), default=["flax"])
    parser.add_argument("--kernels", type=int, default=0, help="list so many kernels of ours")
    options = parser.parse_args()
    targets = [parse_target(name) for name in options.targets]
    heads = ("program", "target", "ours GB", "MB/image", "example GB", "ours/example", "scratch GB", "example's")
    print("| " + " | ".join((*heads, "collectives", "MB sent", "compile s")) + " |\n|" + "--|" * (len(heads) + 3))
    for model in options.models:
        for program in options.programs:
            for target in targets:
                try:
                    row(model, program, target, options)
                except ResnetJaxError as error:
                    print(f"| {model} {program} | {target.name} | {error} |", flush=True)


if __name__ == "__main__":
    main()
