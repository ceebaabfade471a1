"""The layers of the networks as ONNX operators: what `models/` computes, written down."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import numpy as np
from flax import linen as nn

from resnet_jax.errors import ModelError
from resnet_jax.export.graph import Graph, Map, Sides
from resnet_jax.models import BatchNorm
from resnet_jax.models.blueprint import Blueprint
from resnet_jax.models.layers import ACTIVATIONS, POOLS
from resnet_jax.models.norms import field_default
from resnet_jax.models.pooling import GridAverage, bounds_of


@dataclass(frozen=True)
class Layers:
    """Adds the layers of one network to a graph. Layers are named as the network's modules, `layer1_0/conv1`.

    Attributes:
      arrays: of the network, by their names, such as `params/layer1_0/conv1/kernel`.
      plan: of the backbone, whose options all layers have.
      repeats_ends: convolutions see the first and the last frame of a clip once more where others see zeros.
    """

    graph: Graph
    arrays: Mapping[str, np.ndarray]
    plan: Blueprint
    repeats_ends: bool = False

    def conv(self, x: Map, name: str, *, stride: int | Sides = 1, dilation: int = 1, **fields: Any) -> Map:
        """The convolution called `name`, with `fields` of `Graph.conv`; two convolutions if it is cut into one in space
        and one in time (`models.temporal.Factored`)."""
        if f"params/{name}/spatial/kernel" in self.arrays:
            along, down, across = (stride,) * 3 if isinstance(stride, int) else stride
            y = self.conv(x, f"{name}/spatial", stride=(1, down, across), dilation=dilation)
            y = self.act(self.norm(y, f"{name}/norm"), f"{name}/norm")
            return self.conv(y, f"{name}/temporal", stride=(along, 1, 1), dilation=dilation)
        kernel = self.arrays[f"params/{name}/kernel"]
        if self.repeats_ends:
            ends, *rest = [((size - 1) // 2 * dilation,) * 2 for size in kernel.shape[:-2]]
            x = self.graph.bordered(x, f"{name}/ends", [ends, (0, 0), (0, 0)], "edge") if any(ends) else x
            fields["padding"] = [(0, 0), *rest]
        bias = self.arrays.get(f"params/{name}/bias")
        if bias is not None and not bias.any():  # of a folded network's convolution that no norm follows
            bias = None
        return self.graph.conv(x, kernel, bias, name, stride=stride, dilation=dilation, **fields)

    def norm(self, x: Map, name: str) -> Map:
        """The norm called `name`, unless a convolution does its work."""
        scale, bias = (self.arrays.get(f"params/{name}/{leaf}") for leaf in ("scale", "bias"))
        if scale is None or bias is None:
            return x
        epsilon = float(field_default(self.plan.norm, "epsilon"))
        kind = self.plan.norm.func if isinstance(self.plan.norm, partial) else self.plan.norm
        if kind is BatchNorm:
            leaves = {"scale": scale, "bias": bias}
            leaves |= {leaf: self.arrays[f"batch_stats/{name}/{leaf}"] for leaf in ("mean", "var")}
            inputs = [self.graph.constant(f"{name}/{leaf}", array) for leaf, array in leaves.items()]
            return x._replace(name=self.graph.op("BatchNormalization", [x.name, *inputs], name, epsilon=epsilon))
        groups = field_default(self.plan.norm, "num_groups")
        if kind is nn.GroupNorm and groups:
            return self._group_norm(x, name, scale, bias, groups, epsilon)
        raise unknown(name, "norm", kind)

    def act(self, x: Map, name: str, *, within: str = "") -> Map:
        """The network's activation.

        Args:
          within: what the names begin with in the module whose activation it is, such as `layer1_0/`.
        """
        graph, known, name = self.graph, {act: kind for kind, act in ACTIVATIONS.items()}, f"{name}/act"
        match known.get(self.plan.act):
            case "relu":
                return relu(graph, x, name)
            case "prelu":
                slope = _of_channels(x, self.arrays[f"params/{within}prelu/slope"])
                inputs = [x.name, graph.constant(f"{within}prelu/slope", slope)]
                return x._replace(name=graph.op("PRelu", inputs, f"{within}prelu"))
            case "leaky_relu":
                return x._replace(name=graph.op("LeakyRelu", [x.name], name, alpha=0.01))
            case "silu":
                return x._replace(name=graph.op("Mul", [x.name, graph.op("Sigmoid", [x.name], name)], name))
            case "gelu":
                return x._replace(name=gelu(graph, x.name, name))
        raise unknown(name, "activation", self.plan.act)

    def pool(self, x: Map, name: str) -> tuple[str, int]:
        """The pool before the last layer: (N, C), and C."""
        graph, pool = self.graph, self.plan.pool
        if isinstance(pool, GridAverage):
            return self._grid(x, name, pool.grid), pool.grid**2 * x.channels
        kind = {pool: kind for kind, pool in POOLS.items()}.get(pool)
        if kind is None:
            raise unknown(name, "pool", pool)
        wanted = {"avg": ("Average",), "max": ("Max",)}.get(kind, ("Average", "Max"))
        flat = [
            graph.op("Flatten", [graph.op(f"Global{each}Pool", [x.name], name)], f"{name}/{each}") for each in wanted
        ]
        if kind == "avgmax":
            total, half = graph.op("Add", flat, name), graph.constant(f"{name}/half", 0.5)
            return graph.op("Mul", [total, half], name), x.channels
        return (flat[0] if len(flat) == 1 else graph.op("Concat", flat, name, axis=1)), len(flat) * x.channels

    def squeeze_excite(self, x: Map, name: str) -> Map:
        gate = Map(self.graph.op("GlobalAveragePool", [x.name], name), x.channels, (1,) * len(x.sides))
        gate = self.conv(relu(self.graph, self.conv(gate, f"{name}/fc1"), f"{name}/act"), f"{name}/fc2")
        sigmoid = self.graph.op("Sigmoid", [gate.name], name)
        return x._replace(name=self.graph.op("Mul", [x.name, sigmoid], name))

    def max_pool(self, x: Map, name: str, stride: int = 2) -> Map:
        return self.graph.pooled(x, "MaxPool", name, size=3, stride=stride, ends=(1, 1))

    def blur(self, x: Map, name: str, stride: int, border: str = "reflect") -> Map:
        """As `models.pooling.blur_pool`."""
        axes = len(x.sides)
        taps = reduce(np.multiply.outer, [np.array((1, 2, 1)) / 4] * axes)
        kernel = np.broadcast_to(taps[..., None, None], (*taps.shape, 1, x.channels))
        wide = self.graph.bordered(x, name, [(1, 1)] * axes, border)
        return self.graph.conv(wide, kernel, None, name, stride=stride, groups=x.channels, padding=[(0, 0)] * axes)

    def unit(self, x: Map, conv: str, norm: str, **fields: int) -> Map:
        """A convolution, a norm and ReLU, as heads have them."""
        return relu(self.graph, self.norm(self.conv(x, conv, **fields), norm), norm)

    def _grid(self, x: Map, name: str, grid: int) -> str:
        """`models.pooling.GridAverage`: along each axis a product with the share of each pixel in each part."""
        graph = self.graph
        down, across = (np.stack([_part_of(side, grid, place) for place in range(grid)]) for side in x.sides)
        y = graph.op("MatMul", [x.name, graph.constant(f"{name}/across", across.T)], f"{name}/across")
        y = graph.op("MatMul", [graph.constant(f"{name}/down", down), y], f"{name}/down")
        return graph.op("Flatten", [y], name)

    def _group_norm(self, x: Map, name: str, scale: np.ndarray, bias: np.ndarray, groups: int, epsilon: float) -> Map:
        """The operator for group normalisation has one scale per group up to opset 20. So each group of channels is
        normalised as one long channel, and scaled afterwards."""
        graph = self.graph
        shape = lambda what, *sides: graph.constant(f"{name}/{what}", sides, np.int64)
        long = graph.op("Reshape", [x.name, shape("groups", 0, groups, -1)], f"{name}/long")
        ones, zeros = (graph.constant(f"{name}/{what}", np.full(groups, value)) for what, value in (("1", 1), ("0", 0)))
        normal = graph.op("InstanceNormalization", [long, ones, zeros], name, epsilon=epsilon)
        normal = graph.op("Reshape", [normal, shape("channels", 0, x.channels, *x.sides)], name)
        scaled = graph.op("Mul", [normal, graph.constant(f"{name}/scale", _of_channels(x, scale))], name)
        return x._replace(name=graph.op("Add", [scaled, graph.constant(f"{name}/bias", _of_channels(x, bias))], name))


def relu(graph: Graph, x: Map, name: str) -> Map:
    return x._replace(name=graph.op("Relu", [x.name], name))


def gelu(graph: Graph, x: str, name: str) -> str:
    """x / 2 * (1 + erf(x / sqrt(2)))"""
    half, root, one = (
        graph.constant(f"{name}/{what}", value) for what, value in (("half", 0.5), ("root", 0.5**0.5), ("one", 1.0))
    )
    erf = graph.op("Erf", [graph.op("Mul", [x, root], f"{name}/root")], name)
    factor = graph.op("Mul", [graph.op("Add", [erf, one], name), half], f"{name}/half")
    return graph.op("Mul", [x, factor], name)


def _part_of(side: int, grid: int, place: int) -> np.ndarray:
    """The share of each pixel of a side in the mean of a part of it."""
    first, last = bounds_of(side, grid, place)
    share = np.zeros(side)
    share[first:last] = 1 / (last - first)
    return share


def _of_channels(x: Map, values: np.ndarray) -> np.ndarray:
    """A number for each channel, shaped so that it meets the channels of `x`."""
    return values.reshape(-1, *[1] * len(x.sides))


def unknown(layer: str, kind: str, what: Any) -> ModelError:
    """The error for a part without operators of ONNX."""
    name = getattr(what, "__name__", repr(what))
    return ModelError(
        f"{layer}: the {kind} {name} is not known to the ONNX writer; choose the {kind} by name, or export with "
        "--format stablehlo, which writes any computation"
    )
