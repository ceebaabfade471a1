"""What folding batch normalisation gives on this machine's CPU, beside the engines that people deploy with.

    python benchmarks/fold.py                                 # ResNet-50 at 224 pixels, 1 and 16 images
    python benchmarks/fold.py --model resnet18 --batch 1 --rounds 5

All engines get the same random weights and compute in float32: this package before and after folding, PyTorch as it is
and by `torch.compile`, onnxruntime and OpenVINO on the ONNX file of `export`. They take turns (`turns.py`). The times
are medians. The ratios are medians over the rounds: the time of an engine over that of the folded network, so above 1
the folded network is faster. `first` is the time from a network to its first result: tracing, folding, compiling.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

from resnet_jax.runtime.xla_flags import set_xla_flags

set_xla_flags()

import jax  # noqa: E402
import numpy as np  # noqa: E402
from turns import Run, take_turns  # noqa: E402

from resnet_jax.compress import fold  # noqa: E402
from resnet_jax.export.graph import Graph  # noqa: E402
from resnet_jax.export.job import Job  # noqa: E402
from resnet_jax.export.onnx_file import onnx_model  # noqa: E402
from resnet_jax.models import create_model, variable_shapes  # noqa: E402
from resnet_jax.run.network import Network  # noqa: E402
from resnet_jax.weights import Preset, layout_of, to_tensors, to_torchvision  # noqa: E402

ENGINES = ("folded", "not folded", "torch", "torch.compile", "onnxruntime", "OpenVINO")


def random_variables(model: Any, seed: int = 0) -> Any:
    """Kernels that keep the size of the activations, and statistics that are not trivial."""
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        numbers = rng.normal(size=leaf.shape) * (2 / max(1, np.prod(leaf.shape[:-1]))) ** 0.5
        return (np.abs(numbers) + 0.5 if path[-1].key in ("var", "scale") else numbers).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, variable_shapes(model))


def engines(name: str, model: Any, variables: Any, images: np.ndarray) -> dict[str, Callable[[], Run]]:
    """For each engine the function that prepares it, which gives the function that computes the logits."""
    side = images.shape[1]
    channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    job = Job(Network(name, model, variables, Preset(resize=side, crop=side), ()), len(images))

    def jax_run(net: Any, weights: Any) -> Run:
        program, weights, x = jax.jit(lambda v, x: net.apply(v, x, train=False)), jax.device_put(weights), images
        return lambda: np.asarray(program(weights, x))

    def folded() -> Run:
        small = fold(model, variables)
        return jax_run(small.model, small.variables)

    def torch_run(compiled: bool) -> Run:
        import torch

        from resnet_jax.parity import make_reference

        module = make_reference(name).eval()
        module.load_state_dict(to_tensors(to_torchvision(variables, layout=layout_of(model))), strict=True)
        call: Any = torch.compile(module) if compiled else module
        x = torch.from_numpy(channels_first)

        def run() -> np.ndarray:
            with torch.inference_mode():
                return call(x).numpy()

        return run

    def onnx_bytes() -> bytes:
        small = fold(model, variables)
        return onnx_model(job, small.model, small.variables, Graph()).SerializeToString()

    def onnxruntime() -> Run:
        import onnxruntime

        session = onnxruntime.InferenceSession(onnx_bytes(), providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {"images": channels_first})[0]

    def openvino() -> Run:
        import openvino

        core = openvino.Core()
        # Without the hint a CPU with bfloat16 computes in that.
        exact = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        network = core.compile_model(core.read_model(onnx_bytes()), "CPU", exact)
        return lambda: network({"images": channels_first})[0]

    return {
        "folded": folded,
        "not folded": lambda: jax_run(model, variables),
        "torch": lambda: torch_run(False),
        "torch.compile": lambda: torch_run(True),
        "onnxruntime": onnxruntime,
        "OpenVINO": openvino,
    }


def prepare(engine: str, name: str, batch: int, size: int) -> Run:
    model = create_model(name)
    images = np.random.default_rng(1).normal(size=(batch, size, size, 3)).astype(np.float32)
    return engines(name, model, random_variables(model), images)[engine]()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, nargs="+", default=(1, 16))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--without", nargs="*", default=(), help="engines, such as torch.compile")
    args = parser.parse_args()
    chosen = [name for name in ENGINES if name not in args.without]
    for batch in args.batch:
        print(f"{args.model}, {batch} x {args.size} x {args.size} pixels, {args.rounds} rounds", flush=True)
        times = take_turns(chosen, prepare, (args.model, batch, args.size), args.rounds)
        expected = next(iter(times.values())).result
        print("  engine          ms      images/s   engine / folded   first s")
        for name, (first, logits, seconds) in times.items():
            error = np.abs(logits - expected).max() / np.abs(expected).max()
            assert error < 1e-4, f"{name} gives other logits: {error:.1e} of the largest"
            ratio = statistics.median(a / b for a, b in zip(seconds, times["folded"].seconds, strict=True))
            median = statistics.median(seconds)
            print(
                f"  {name:<14}{1000 * median:>8.1f}{batch / median:>11.2f}{ratio:>15.2f}{first:>13.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
