"""What int8 gives on this machine's CPU, beside float32 in the same engine.

    python benchmarks/int8.py                                 # ResNet-50 at 224 pixels, 1 and 16 images
    python benchmarks/int8.py --model cifar_resnet20 --size 32 --batch 256 --rounds 5

All get the same random weights. onnxruntime and OpenVINO run the ONNX files of `export`, with and without `--int8`. XLA
runs this package's own networks. They take turns (`turns.py`). The times are medians. The ratios are medians over the
rounds: the time in float32 over that in int8, so above 1 int8 is faster. The errors of the logits are relative to those
of float32 in onnxruntime. OpenVINO is told to compute in float32 what is not int8: a CPU with bfloat16 would else
compute in that.
"""

import argparse
import statistics
from typing import Any

from resnet_jax.runtime.xla_flags import set_xla_flags

set_xla_flags()

import jax  # noqa: E402
import numpy as np  # noqa: E402
from fold import random_variables  # noqa: E402
from turns import Run, take_turns  # noqa: E402

from resnet_jax.compress.quantize import quantize  # noqa: E402
from resnet_jax.config import QuantizeConfig  # noqa: E402
from resnet_jax.export.job import Job  # noqa: E402
from resnet_jax.export.onnx_file import job_model  # noqa: E402
from resnet_jax.models import create_model  # noqa: E402
from resnet_jax.run.network import Network  # noqa: E402
from resnet_jax.weights import Preset  # noqa: E402

ENGINES = ("onnxruntime", "OpenVINO", "XLA")
FORMS = ("float32", "int8")


def prepare(what: str, name: str, batch: int, size: int) -> Run:
    """What computes the logits. `what` is an engine and a form."""
    engine, form = what.split()
    rng = np.random.default_rng(1)
    images = rng.normal(size=(batch, size, size, 3)).astype(np.float32)
    model = create_model(name)
    variables = random_variables(model)
    seen = rng.normal(size=(16, size, size, 3)).astype(np.float32)
    quantized = quantize(model, variables, lambda: [seen], QuantizeConfig()) if form == "int8" else None
    job = Job(Network(name, model, variables, Preset(resize=size, crop=size), ()), batch, quantized=quantized)
    folded = job.folded()
    channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    if engine == "XLA":
        network: Any = quantized.model if quantized else folded.model
        weights = jax.device_put(quantized.variables if quantized else folded.variables)
        program = jax.jit(lambda v, x: network.apply(v, x, train=False))
        return lambda: np.asarray(program(weights, images))
    file = job_model(job, folded).SerializeToString()
    if engine == "onnxruntime":
        import onnxruntime

        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {"images": channels_first})[0]
    import openvino

    core = openvino.Core()
    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(core.read_model(file), "CPU", hints)
    return lambda: compiled({"images": channels_first})[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, nargs="+", default=(1, 16))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--without", nargs="*", default=(), help="engines, such as OpenVINO")
    args = parser.parse_args()
    names = [f"{engine} {form}" for engine in ENGINES for form in FORMS if engine not in args.without]
    for batch in args.batch:
        print(f"{args.model}, {batch} x {args.size} x {args.size} pixels, {args.rounds} rounds", flush=True)
        times = take_turns(names, prepare, (args.model, batch, args.size), args.rounds)
        print("  engine                   ms    images/s   float32 / int8   error of the logits")
        for name, (_, logits, seconds) in times.items():
            plain = times.get(name.replace("int8", "float32"))
            expected = next(iter(times.values())).result
            error = np.linalg.norm(logits - expected) / np.linalg.norm(expected)
            median = statistics.median(seconds)
            ratio = statistics.median(a / b for a, b in zip(plain.seconds, seconds, strict=True)) if plain else 0.0
            print(f"  {name:<20}{1000 * median:>8.1f}{batch / median:>11.1f}{ratio:>16.2f}{error:>21.1e}", flush=True)


if __name__ == "__main__":
    main()
