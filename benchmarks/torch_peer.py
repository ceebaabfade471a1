"""A peer: torchvision's networks in PyTorch, eager and compiled, channels_last, autocast for 16 bits."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from resnet_jax.cost.speed import Program


def import_torchvision() -> Any:
    import torch

    try:
        import torchvision
    except RuntimeError:  # compiled operators that do not fit the build of torch; no ResNet calls one of them
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        with contextlib.suppress(RuntimeError):  # known already
            for operator in ("nms", "qnms"):
                torch.library.define(
                    f"torchvision::{operator}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor"
                )
        import torchvision
    return torchvision


def torch_program(name: str, batch_size: int, image_size: int, dtype: str, *, train: bool, compiled: bool) -> Program:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # what XLA does by default
        torch.cuda.reset_peak_memory_stats()
    network = getattr(import_torchvision().models, name)().to(device, memory_format=torch.channels_last)
    images = torch.randn(batch_size, 3, image_size, image_size, device=device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.arange(batch_size, device=device) % 1000
    network.train(train)
    function = torch.compile(network) if compiled else network
    autocast: Callable[[], Any] = contextlib.nullcontext
    if dtype != "float32":
        autocast = lambda: torch.autocast(device, dtype=getattr(torch, dtype))
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9, weight_decay=1e-4)

    def forward() -> Any:
        with torch.inference_mode(), autocast():
            return function(images)

    def step() -> Any:
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            loss = torch.nn.functional.cross_entropy(function(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    launch = step if train else forward
    wait = (lambda out: torch.cuda.synchronize()) if device == "cuda" else (lambda out: out)
    started = time.perf_counter()
    wait(launch())
    seconds = time.perf_counter() - started if compiled else 0.0
    wait(launch())
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    return Program("torch compile" if compiled else "torch eager", launch, batch_size, seconds, peak, wait)


def peak_of_a_process(name: str, batch_size: int, image_size: int, dtype: str) -> int:
    """Bytes by which the memory of a process grows in two training steps of PyTorch on a CPU."""
    arguments = [name, str(batch_size), str(image_size), dtype]
    out = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True).stdout
    return int(out.split()[-1])


if __name__ == "__main__":
    import resource

    torch_vision = import_torchvision()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model_name, batch, size, number = sys.argv[1:]
    torch_program(model_name, int(batch), int(size), number, train=True, compiled=False)
    print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
