"""Networks layer by layer, as in Figure 3 of He et al. 2015 (arXiv:1512.03385): VGG-19, plain-34 and residual-34."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from resnet_jax.cost.count import Operation, macs_of, operations_of
from resnet_jax.models import ResNet, create_model
from resnet_jax.models.blueprint import draw
from resnet_jax.peers.names import Compared, missing
from resnet_jax.peers.torch_count import numbers_of, trace, weight_shape


@dataclass(frozen=True)
class Layer:
    """A layer of a network, or a pool.

    Attributes:
      kind: what it is.
      label: as the figure writes it: `3x3 conv, 64`, `pool, /2`, `fc 1000`.
      side: height and width of its output in pixels.
      weights: numbers in its kernel and its bias.
      block: the block that it belongs to; empty = none.
      shortcut: of the last layer of a block: what the block's output is added to. `changed` = brought to other channels
        and another size, dotted in the figure.
    """

    kind: Literal["conv", "pool", "fc"]
    label: str
    side: int
    macs: int = 0
    weights: int = 0
    block: str = ""
    shortcut: Literal["", "same", "changed"] = ""


@dataclass(frozen=True)
class Column:
    """A network of the figure.

    Attributes:
      published_gmacs: as the paper says, "billion FLOPs" (multiply-adds) in the caption of Figure 3.
    """

    title: str
    published_gmacs: float
    layers: tuple[Layer, ...]

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @property
    def depth(self) -> int:
        """Layers with weights."""
        return sum(layer.kind != "pool" for layer in self.layers)


def figure3() -> tuple[list[Column], str]:
    """The three networks, and why the first is left out, if it is.

    The residual network has option A, as that of section 4.1 that is compared with the plain one: no shortcut has
    parameters.
    """
    plain, residual = create_model("plain34"), create_model("resnet34", shortcut="zero_pad")
    columns = [
        Column("34-layer plain", 3.6, tuple(_of_resnet(plain))),
        Column("34-layer residual", 3.6, tuple(_of_resnet(residual))),
    ]
    if absent := missing("torch", "torchvision"):
        return columns, f"VGG-19 is torchvision's, and {' and '.join(absent)} cannot be imported"
    return [Column("VGG-19", 19.6, tuple(_of_torch("vgg19"))), *columns], ""


def rows_by_side(columns: Sequence[Column]) -> dict[int, int]:
    """For each size of output, the largest first, the most layers that a network has with it."""
    sides = sorted({layer.side for column in columns for layer in column.layers}, reverse=True)
    return {side: max(sum(layer.side == side for layer in column.layers) for column in columns) for side in sides}


def macs_text(macs: int) -> str:
    """`1.85 G` or `0.51 M`."""
    return f"{macs / 1e9:.2f} G" if macs >= 1e9 else f"{macs / 1e6:.1f} M"


def _of_resnet(net: ResNet, image_size: int = 224) -> Iterator[Layer]:
    """The layers of a network of basic blocks whose shortcuts have no parameters, from its trace."""
    products = [operation for operation in operations_of(net, image_size=image_size) if macs_of(operation)]
    plan, side = draw(net), image_size
    for place, operation in enumerate(products):
        block = next((name for name in operation.scope if name.startswith("layer")), "")
        following = products[place + 1].inputs[0].shape if place + 1 < len(products) else ()
        if operation.primitive == "dot_general":
            yield Layer("pool", "avg pool", 1)
            features = operation.outputs[0].shape[-1]
            yield Layer("fc", f"fc {features}", 1, macs_of(operation), macs_of(operation) + features)
            continue
        side, layer = operation.outputs[0].shape[1], _conv(operation, block)
        last = bool(block) and (place + 1 == len(products) or block not in products[place + 1].scope)
        if last and plan.shortcut.__name__ != "nothing":
            start = products[place - 1].inputs[0].shape  # of the block's first convolution
            layer = replace(layer, shortcut="same" if start == operation.outputs[0].shape else "changed")
        yield layer
        if not block and following and following[1] < side:
            yield Layer("pool", f"pool, /{side // following[1]}", following[1])


def _conv(operation: Operation, block: str) -> Layer:
    height, width, _, features = operation.inputs[1].shape
    stride = operation.params["window_strides"][0]
    label = f"{height}x{width} conv, {features}" + (f", /{stride}" if stride > 1 else "")
    weights = height * width * operation.inputs[1].shape[2] * features
    return Layer("conv", label, operation.outputs[0].shape[1], macs_of(operation), weights, block)


def _of_torch(name: str, image_size: int = 224) -> Iterator[Layer]:
    """The layers of a network of torchvision that is a chain of convolutions, pools and products."""
    compared = Compared(name, "torchvision", name, "", image_size, None)
    side = image_size
    for call in trace(compared.build_torch, image_size)[1]:
        if call.operation == "convolution":
            features, _, height, width = weight_shape(call)
            stride, side = call.arguments[3][0], call.output.shape[-1]
            label = f"{height}x{width} conv, {features}" + (f", /{stride}" if stride > 1 else "")
            yield Layer("conv", label, side, call.macs, numbers_of(call))
        elif call.operation.startswith("max_pool"):
            before, side = side, call.output[0].shape[-1]
            yield Layer("pool", f"pool, /{before // side}", side)
        elif call.operation == "addmm":
            yield Layer("fc", f"fc {call.output.shape[-1]}", 1, call.macs, numbers_of(call))
