"""Where a network is quantised: the same places as in PyTorch's quantised ResNet.

A tensor is quantised where it is read by a convolution or by `fc`, where a block begins and ends, and where the branch
and the shortcut of a block are added. So a convolution and the ReLU after it are quantised once, after the ReLU. A
tensor that several layers read is quantised once. The stem's max-pool comes before the place, and is the same on
integers. The logits are not quantised.

A place is called after the layer that reads the tensor, `layer1_0/conv2`. What a block puts out is called after the
block, `layer1_0`. There are also `layer1_0/input` of the first block, and `layer1_0/branch` and `layer1_0/shortcut`,
which are added.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, PyTree

from resnet_jax.models import Block, Conv, ResNet
from resnet_jax.models.shortcuts import zero_pad, zero_pad_centred

Images = Float[Array | np.ndarray, "N H W C"]
"""Normalised images."""
Quantize = Callable[[Array, str], Array | None]
"""`(tensor, place) -> what its readers get`. None: it is not quantised here, and its next reader asks again."""


class Layer(NamedTuple):
    """A layer with a kernel, when it is called.

    Attributes:
      module: a `Conv` or a `Dense`.
      name: such as `layer1_0/conv1`.
      reads: the name of the tensor that it gets, None if that was not quantised.
    """

    module: Any
    name: str
    reads: str | None


Compute = Callable[[Layer, Array, Callable[[Array], Array]], Array]
"""`(layer, tensor, the layer's own function) -> what the layer puts out`."""


def as_it_is(layer: Layer, x: Array, call: Callable[[Array], Array]) -> Array:
    """The layer's own function."""
    return call(x)


@contextmanager
def placed(quantize: Quantize, compute: Compute = as_it_is) -> Iterator[None]:
    """Inside, networks are quantised as they are called: tensors by `quantize`, once each, and layers by `compute`.

    Enter it in the function that is traced, once for each call of a network.
    """
    # By identity. The arrays are held, so that no other gets the identity of one.
    known: dict[int, tuple[Array, Array, str]] = {}
    on_the_grid: set[str] = set()

    def once(x: Array, place: str) -> Array:
        if id(x) not in known:
            y = quantize(x, place)
            if y is None:
                return x
            known[id(x)], known[id(y)] = (x, y, place), (y, y, place)
        return known[id(x)][1]

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module, name = context.module, "/".join(context.module.path)
        match module, context.method_name:
            case Conv() | nn.Dense(), "__call__":
                x = once(args[0], name)
                reads = known[id(x)][2] if id(x) in known else None
                return compute(Layer(module, name, reads), x, lambda x: call(x, **kwargs))
            case Block(), "__call__":
                return once(call(once(args[0], f"{name}/input"), **kwargs), name)
            case ResNet(), "passed_on":
                x = call(*args)
                if id(args[0]) in known:
                    known[id(x)] = (x, x, known[id(args[0])][2])
                return x
            case Block(), "add":
                x, y = args
                if id(x) in known:  # of a tensor that was quantised on its way into the branch
                    x = known[id(x)][1]
                    # Pixels of a quantised tensor, and zeros: they need not be quantised again.
                    if module.parts.shortcut in (zero_pad, zero_pad_centred):
                        on_the_grid.add(name)
                return call(x, y)
            case Block(), "sum_of":
                y, shortcut = args
                shortcut = shortcut if name in on_the_grid else once(shortcut, f"{name}/shortcut")
                return call(once(y, f"{name}/branch"), shortcut)
        return call(*args, **kwargs)

    with nn.intercept_methods(intercept):
        yield


def is_kept(name: str, kept: Iterable[str]) -> bool:
    """Whether a layer or place is one of those that stay in floating point, or in a block that does."""
    return any(name == one or name.startswith(f"{one}/") for one in kept)


def with_kernels(variables: PyTree[Array], change: Callable[[Array, str], Array]) -> PyTree[Array]:
    """The variables of a network with other kernels: `change(kernel, layer)`, such as `layer1_0/conv1`."""
    flat = flatten_dict(dict(variables))
    return unflatten_dict(
        {path: change(leaf, "/".join(path[1:-1])) if path[-1] == "kernel" else leaf for path, leaf in flat.items()}
    )
