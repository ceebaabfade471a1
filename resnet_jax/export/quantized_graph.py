"""A graph of ONNX operators with int8 kernels and activations, in the form that engines read: QDQ.

A pair of `QuantizeLinear` and `DequantizeLinear` stands at each place where `compress.quantize.placement` quantises,
with the same scale. An engine puts a layer between two pairs into one operator on integers.
"""

from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from resnet_jax.compress.quantize import Quantized
from resnet_jax.compress.quantize.scales import largest_activation
from resnet_jax.export.graph import Graph, Map


class QuantizedGraph(Graph):
    """Writes the integers of a quantised network. What it does not quantise is as in `Graph`."""

    def __init__(self, quantized: Quantized) -> None:
        super().__init__()
        self._scales = quantized.scales
        self._reads = dict(self._scales.reads)
        self._arrays = flatten_dict(dict(quantized.variables["params"]), sep="/")
        self._known: dict[str, tuple[str, str]] = {}
        """The quantised form of a value, and its place, by the name of the value or of that form."""

    def conv(self, x: Map, kernel: np.ndarray, bias: np.ndarray | None, name: str, **fields: Any) -> Map:
        """As of `Graph`, of a quantised value."""
        x = self.at(x, self._reads.get(name, name))
        return super().conv(x, kernel, bias, name, **fields)

    def dense(self, x: str, kernel: np.ndarray, bias: np.ndarray, name: str) -> str:
        """As of `Graph`, of a quantised value."""
        x = self.at(Map(x, len(kernel), (1, 1)), self._reads.get(name, name)).name
        return super().dense(x, kernel, bias, name)

    def add(self, x: Map, y: Map, name: str) -> Map:
        """As of `Graph`. In a block `x` is the branch and `y` the shortcut."""
        return super().add(self.at(x, f"{name}/branch"), self.at(y, f"{name}/shortcut"), name)

    def at(self, x: Map, place: str) -> Map:
        """The quantised form of a value, if it is quantised at this place, or was at another."""
        if x.name not in self._known and place in self._scales.tensors:
            self._quantize(x.name, place, place)
        return x._replace(name=self._known[x.name][0]) if x.name in self._known else x

    def cut(self, x: Map, name: str, *args: Any, **fields: Any) -> Map:
        """As of `Graph`. Pixels of a quantised value are quantised."""
        return self._again(self.at(x, ""), lambda x: super(QuantizedGraph, self).cut(x, name, *args, **fields))

    def padded(self, x: Map, name: str, *, channels: tuple[int, int] = (0, 0), **fields: int) -> Map:
        """As of `Graph`. Zeros beside a quantised value are, too, since it has a zero."""
        return self._again(x, lambda x: super(QuantizedGraph, self).padded(x, name, channels=channels, **fields))

    def weight(self, values: np.ndarray, name: str) -> str:
        """A kernel in integers and how to read them, the output channels first."""
        layer = name.rpartition("/")[0]
        if layer not in self._reads:
            return super().weight(values, name)
        integers = np.asarray(self._arrays[f"{layer}/kernel"])
        integers = integers.T if integers.ndim == 2 else integers.transpose(3, 2, 0, 1)
        return self._constant(name, integers, np.asarray(self._scales.kernels[layer]))

    def bias(self, values: np.ndarray, name: str) -> str:
        """A bias in int32. One of its units is one of the sums that the layer makes."""
        layer = name.rpartition("/")[0]
        if layer not in self._reads:
            return super().bias(values, name)
        scale = np.asarray(self._scales.tensors[self._reads[layer]].scale * self._scales.kernels[layer])
        return self._constant(name, np.asarray(self._arrays[f"{layer}/bias"]), scale)

    def _again(self, x: Map, change: Any) -> Map:
        """A change that keeps the values, and the pair of operators once more, for engines that look for it around each
        operator."""
        y = change(x)
        if x.name in self._known and y.name != x.name:
            place = self._known[x.name][1]
            self._quantize(y.name, y.name, place)
            y = y._replace(name=self._known[y.name][0])
        return y

    def _quantize(self, value: str, name: str, place: str) -> None:
        grid, bits = self._scales.tensors[place], self._scales.activation_bits
        scale, zero_point = np.float32(grid.scale), int(grid.zero_point)
        inputs = [self.constant(f"{name}/scale", scale), self.constant(f"{name}/zero_point", zero_point, np.uint8)]
        x = value
        if bits < 8:  # the operator itself knows only the ends of 8 bits
            ends = (scale * np.float32(end - zero_point) for end in (0, largest_activation(bits)))
            names = [self.constant(f"{name}/{end}", number) for end, number in zip(("low", "high"), ends, strict=True)]
            x = self.op("Clip", [x, *names], name)
        result = self.op("DequantizeLinear", [self.op("QuantizeLinear", [x, *inputs], name), *inputs], name)
        self._known[value] = self._known[result] = (result, place)

    def _constant(self, name: str, integers: np.ndarray, scale: np.ndarray) -> str:
        """Integers, with one scale for each index of the first axis."""
        inputs = [
            self.constant(f"{name}/integers", integers, integers.dtype),
            self.constant(f"{name}/scale", scale),
            self.constant(f"{name}/zero_point", np.zeros(len(scale)), integers.dtype),
        ]
        return self.op("DequantizeLinear", inputs, name, axis=0)
