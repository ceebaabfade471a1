"""The cost of a network, computed from the network itself: no number here is typed in.

A network is traced once, without running it, and the operations of the trace are counted.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var

from resnet_jax.cost.facts import Cost
from resnet_jax.models import variable_shapes
from resnet_jax.models.detect.network import Detector
from resnet_jax.models.embed.network import Embedder
from resnet_jax.models.headed import resnet_in
from resnet_jax.models.segment.network import Segmenter
from resnet_jax.models.segment.unet import UNet

FRAMES = 16
"""The length of the clips for which torchvision and Hara et al. 2018 (arXiv:1711.09577) state costs."""


def axes_of(model: Any, image_size: int, frames: int = FRAMES) -> tuple[int, ...]:
    """The axes of an image, or of a clip where the network sees clips, without batch and channels."""
    clips = len(getattr(model, "sides", (64, 64))) == 3
    return (frames, image_size, image_size) if clips else (image_size, image_size)


def measure(model: nn.Module, *, image_size: int = 224, channels: int = 3, frames: int = FRAMES) -> Cost:
    """Counts the operations of `model` on one image of `image_size` x `image_size` pixels, or on one clip.

    Raises:
      ModelError: the image is smaller than the network's stride.
    """
    variables, operations = _trace(model, axes_of(model, image_size, frames), channels)
    return Cost(
        parameters=_size(variables["params"]),
        macs=sum(map(macs_of, operations)),
        activations=sum(math.prod(operation.outputs[0].shape) for operation in operations if macs_of(operation)),
        peak_bytes=_bytes(variables) + _peak_bytes(operations),
    )


def operations_of(model: nn.Module, *, image_size: int = 224, channels: int = 3) -> list["Operation"]:
    """The operations of the forward pass of one image, in order, with the scopes that they belong to."""
    return _trace(model, axes_of(model, image_size), channels)[1]


def usual_size(model: Any) -> int:
    """Height and width in pixels of the images that such networks are for, and for which papers state their costs."""
    if isinstance(model, Embedder):
        return int(model.sides[0]) if model.head == "flat" else usual_size(model.trunk)
    if isinstance(model, Detector):
        return model.min_size
    if resnet_in(model).stem == "cifar":
        return 32
    if len(axes_of(model, 0)) == 3:
        return 112
    return 520 if isinstance(model, Segmenter | UNet) else 224


def count_parameters(model: nn.Module, *, channels: int = 3) -> int:
    """Trainable numbers, without BatchNorm's running statistics."""
    return _size(variable_shapes(model, channels=channels)["params"])


def count_macs_of(function: Callable[..., Any], *arguments: Any) -> int:
    """Multiply-accumulates of any function of arrays. Only shapes and types are needed; nothing is run."""
    return sum(map(macs_of, _operations(jax.make_jaxpr(function)(*arguments).jaxpr, {}, ())))


def count_macs(model: nn.Module, *, image_size: int = 224, channels: int = 3, frames: int = FRAMES) -> int:
    """Multiply-accumulates of the forward pass of one image or clip: convolutions and matrix products, as papers count
    "FLOPs"."""
    return measure(model, image_size=image_size, channels=channels, frames=frames).macs


def summary(model: nn.Module, *, image_size: int = 224, channels: int = 3, depth: int | None = None) -> str:
    """A table in the order of computation: name, output shape, parameters and MACs of each layer.

    Args:
      depth: 1 = a row per block and per layer outside blocks, as in Table 1 of the paper; None = a row per layer.
    """
    variables, operations = _trace(model, axes_of(model, image_size), channels)
    params = variables["params"]
    shapes: dict[tuple[str, ...], tuple[int, ...]] = {}
    macs: Counter[tuple[str, ...]] = Counter()
    for operation in operations:
        layer = _layer(operation.scope, params)[:depth]
        if layer:
            shapes[layer] = operation.outputs[0].shape[1:]  # the last operation of a layer makes the layer's output
            macs[layer] += macs_of(operation)
    rows = [("layer", "output", "parameters", "MACs")]
    for layer, shape in shapes.items():
        own = reduce(getitem, layer, params)
        if depth is None:
            own = [leaf for leaf in own.values() if not isinstance(leaf, dict)]
        if size := _size(own):
            rows.append(("/".join(layer), " x ".join(map(str, shape)), f"{size:,}", f"{macs[layer]:,}"))
    rows.append(("total", "", f"{_size(params):,}", f"{sum(macs.values()):,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}" for a, b, c, d in rows]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


@dataclass(frozen=True, eq=False)
class Value:
    """An array of the trace. Two values are the same only if they are the same object."""

    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class Operation:
    """One operation of the trace.

    Attributes:
      scope: names, among them those of the modules that the operation belongs to.
    """

    primitive: str
    params: dict[str, Any]
    scope: tuple[str, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def _trace(model: nn.Module, axes: tuple[int, ...], channels: int) -> tuple[Any, list[Operation]]:
    """The shapes of the variables, and the operations of one image's forward pass in order."""
    variables = variable_shapes(model, channels=channels)
    image = jax.ShapeDtypeStruct((1, *axes, channels), jnp.float32)
    traced = jax.make_jaxpr(lambda variables, image: model.apply(variables, image, train=False))(variables, image)
    return variables, list(_operations(traced.jaxpr, {}, ()))


def _operations(jaxpr: Jaxpr, values: dict[Var, Value], scope: tuple[str, ...]) -> Iterator[Operation]:
    """The operations of `jaxpr`, with the functions that it calls written out. Enters its results into `values`."""

    def value(atom: Any) -> Value:
        known = None if isinstance(atom, Literal) else values.get(atom)
        return known or Value(atom.aval.shape, math.prod(atom.aval.shape) * atom.aval.dtype.itemsize)

    for equation in jaxpr.eqns:
        inside = (*scope, *str(equation.source_info.name_stack).split("/"))
        inputs = tuple(map(value, equation.invars))
        called = [param for param in equation.params.values() if isinstance(param, (Jaxpr, ClosedJaxpr))]
        if platforms := equation.params.get("branches_platforms"):
            # The CPU's form is counted, or the form of all others if that does more arithmetic: a form may leave out
            # products with padding, and published counts hold them.
            branches = dict(zip(platforms, equation.params["branches"], strict=True))
            inputs = inputs[1:]
            of_cpus, of_others = branches.get(("cpu",), branches[None]), branches[None]
            called = [max(of_cpus, of_others, key=_macs_in)]
        # How often a loop until a condition holds is run is not known: it is one operation.
        if called and equation.primitive.name != "while":
            inner = called[0].jaxpr if isinstance(called[0], ClosedJaxpr) else called[0]
            local = dict(zip(inner.invars, inputs, strict=True))
            yield from _operations(inner, local, inside)
            results = [local.get(var) or value(var) for var in inner.outvars]
            values.update(zip(equation.outvars, results, strict=True))
        else:
            outputs = tuple(map(value, equation.outvars))
            values.update(zip(equation.outvars, outputs, strict=True))
            yield Operation(equation.primitive.name, equation.params, inside, inputs, outputs)


def _macs_in(branch: ClosedJaxpr) -> int:
    return sum(map(macs_of, _operations(branch.jaxpr, {}, ())))


def macs_of(operation: Operation) -> int:
    """Multiply-accumulates of a convolution or a product of matrices; 0 of anything else."""
    if operation.primitive == "conv_general_dilated":
        # Each output value takes as many products as the kernel has numbers for one output channel.
        kernel = operation.inputs[1].shape
        features = operation.params["dimension_numbers"].rhs_spec[0]
        return math.prod(operation.outputs[0].shape) * math.prod(kernel) // kernel[features]
    if operation.primitive == "dot_general":
        (contracting, _), _ = operation.params["dimension_numbers"]
        return math.prod(operation.outputs[0].shape) * math.prod(operation.inputs[0].shape[i] for i in contracting)
    return 0


def _peak_bytes(operations: list[Operation]) -> int:
    """The most bytes of intermediate values that are alive at once, in the order of the trace."""
    last_use = {value: i for i, operation in enumerate(operations) for value in operation.inputs}
    made = {value for operation in operations for value in operation.outputs}
    alive = peak = 0
    for i, operation in enumerate(operations):
        ending = {value for value in operation.inputs if value in made and last_use[value] == i}
        new = sum(value.bytes for value in operation.outputs)
        moves = macs_of(operation) or operation.primitive.startswith("reduce_window")
        in_place = not moves and any(value.shape == operation.outputs[0].shape for value in ending)
        peak = max(peak, alive + (0 if in_place else new))
        alive += new - sum(value.bytes for value in ending)
    return peak


def _layer(scope: tuple[str, ...], params: Any) -> tuple[str, ...]:
    """The path of the innermost module with parameters in `scope`."""
    path: list[str] = []
    for name in scope:
        if isinstance(params, dict) and name in params:
            params = params[name]
            path.append(name)
    return tuple(path)


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
