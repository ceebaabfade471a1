"""The cost of a torch network, counted in the operations that it calls on arrays without numbers.

The rules are those of `cost.count`, and of torchvision's and timm's published tables: multiply-accumulates of
convolutions and of products of matrices, the products inside attention among them.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Call:
    """One call of an operation of ATen.

    Attributes:
      operation: such as `convolution` or `addmm`.
      arguments: its positional arguments, arrays among them.
      output: its result.
      macs: multiply-accumulates; 0 of everything but convolutions and products.
    """

    operation: str
    arguments: tuple[Any, ...]
    output: Any
    macs: int


@dataclass(frozen=True)
class TorchCost:
    """As `cost.facts.Cost`, without peak memory.

    Attributes:
      parameters: trainable numbers.
      macs: multiply-accumulates of one image's forward pass.
      activations: numbers in the outputs of convolutions and products of matrices.
    """

    parameters: int
    macs: int
    activations: int


def count(build: Callable[[], Any], image_size: int) -> TorchCost:
    """Counts one image's forward pass of the module that `build` gives, without computing it."""
    module, calls = trace(build, image_size)
    return TorchCost(
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        macs=sum(call.macs for call in calls),
        activations=sum(call.output.numel() for call in calls if call.macs),
    )


def trace(build: Callable[[], Any], image_size: int) -> tuple[Any, list[Call]]:
    """The module, without numbers, and what it calls on one image of `image_size` x `image_size` pixels, in order."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    calls: list[Call] = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = function(*args, **(kwargs or {}))
            operation = function._overloadpacket
            # torch counts an addition and a multiplication as two.
            flops = flop_registry[operation](*args, **(kwargs or {}), out_val=out) if operation in flop_registry else 0
            calls.append(Call(str(operation).removeprefix("aten."), args, out, flops // 2))
            return out

    with _without_numbers():
        module = build().to("meta").eval()
    image = torch.empty(1, 3, image_size, image_size, device="meta")
    fast = torch.backends.mha.get_fastpath_enabled()
    # Two forms of attention are one operation each, which has no formula: the products are counted one by one instead.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), Recorder():
            module(image)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return module, calls


@contextlib.contextmanager
def _without_numbers() -> Iterator[None]:
    """Parameters that modules make have shapes and no numbers: the largest networks have billions.

    Only `torch.empty` is changed, which `torch.nn` makes parameters with. RegNet computes its widths with arrays.
    """
    import torch

    class OnMeta(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            further = {"device": "meta"} if function is torch.empty else {}
            return function(*args, **{**(kwargs or {}), **further})

    with OnMeta():
        yield


def weight_shape(call: Call) -> tuple[int, ...]:
    """The shape of the array that a convolution or `addmm` multiplies with: (out, in, h, w), or (in, out)."""
    place = 1 if call.operation == "convolution" else 2
    return tuple(call.arguments[place].shape)


def numbers_of(call: Call) -> int:
    """The numbers in the weight and the bias of a convolution or `addmm`."""
    bias = call.arguments[2 if call.operation == "convolution" else 0]
    return math.prod(weight_shape(call)) + (0 if bias is None else bias.numel())
