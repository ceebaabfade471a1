"""A graph of ONNX operators, built one layer at a time."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

OPSET, IR = 18, 9  # `Resize` with axes, so that the number of images stays open, is there from 18 on

Sides = tuple[int, ...]
"""One number for each axis after the channels."""


class Map(NamedTuple):
    """A value in the graph: (N, C, H, W), or (N, C, T, H, W) of clips."""

    name: str
    channels: int
    sides: Sides

    @property
    def height(self) -> int:
        return self.sides[-2]

    @property
    def width(self) -> int:
        return self.sides[-1]


class Graph:
    """Operators, in the order in which they are computed. Values are float32, with the channels after the images.

    `quantized_graph.QuantizedGraph` is a subclass that quantises what layers read.
    """

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def op(self, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Adds an operator, and gives the name of its output."""
        from onnx import helper

        output = f"{name}/{kind}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, name: str, values: Any, dtype: Any = np.float32) -> str:
        self.constants[name] = np.asarray(values, dtype)
        return name

    def conv(
        self,
        x: Map,
        kernel: np.ndarray,
        bias: np.ndarray | None,
        name: str,
        *,
        stride: int | Sides = 1,
        dilation: int = 1,
        groups: int = 1,
        padding: Sequence[tuple[int, int]] | None = None,
    ) -> Map:
        """A convolution by a kernel (*S, I, O), padded as `models.Conv` pads.

        Args:
          padding: zeros before and after each side, instead.
        """
        sizes = kernel.shape[:-2]
        strides = (stride,) * len(sizes) if isinstance(stride, int) else stride
        pads = padding or [((size - 1) // 2 * dilation,) * 2 for size in sizes]
        inputs = [x.name, self.weight(np.moveaxis(kernel, (-1, -2), (0, 1)), f"{name}/weight")]
        if bias is not None:
            inputs.append(self.bias(bias, f"{name}/bias"))
        output = self.op(
            "Conv",
            inputs,
            name,
            kernel_shape=sizes,
            strides=strides,
            dilations=(dilation,) * len(sizes),
            group=groups,
            pads=_before_and_after(pads),
        )
        sides = (
            (side + sum(pad) - dilation * (size - 1) - 1) // step + 1
            for side, pad, size, step in zip(x.sides, pads, sizes, strides, strict=True)
        )
        return Map(output, kernel.shape[-1], tuple(sides))

    def dense(self, x: str, kernel: np.ndarray, bias: np.ndarray, name: str) -> str:
        """`x @ kernel + bias` of (N, C)."""
        inputs = [x, self.weight(kernel.T, f"{name}/weight"), self.bias(bias, f"{name}/bias")]
        return self.op("Gemm", inputs, name, transB=1)

    def weight(self, values: np.ndarray, name: str) -> str:
        """A kernel, with the output channels first."""
        return self.constant(name, values)

    def bias(self, values: np.ndarray, name: str) -> str:
        return self.constant(name, values)

    def add(self, x: Map, y: Map, name: str) -> Map:
        return x._replace(name=self.op("Add", [x.name, y.name], name))

    def at(self, x: Map, place: str) -> Map:
        """The value itself. `place` is the name of a place where a quantised graph quantises it."""
        return x

    def join(self, maps: Sequence[Map], name: str) -> Map:
        """Maps of one size, one channel after the other."""
        output = self.op("Concat", [x.name for x in maps], name, axis=1)
        return maps[0]._replace(name=output, channels=sum(x.channels for x in maps))

    def pooled(
        self, x: Map, kind: str, name: str, *, size: int | Sides, stride: int, ends: tuple[int, int], **fields: Any
    ) -> Map:
        """The maximum or mean (`kind`) of windows, with `ends` numbers before and after each side that is pooled.

        Args:
          size: of a window, in all axes or in each; an axis of 1 is not pooled.
        """
        sizes = (size,) * len(x.sides) if isinstance(size, int) else size
        strides = tuple(stride if size > 1 else 1 for size in sizes)
        pads = [ends if size > 1 else (0, 0) for size in sizes]
        return self._windows(x, kind, name, sizes, strides, pads, **fields)

    def halved(self, x: Map, name: str) -> Map:
        """As `models.pooling.halving_average_pool`."""
        two = (2,) * len(x.sides)
        pads = [(0, side % 2) for side in x.sides]
        return self._windows(x, "AveragePool", name, two, two, pads, count_include_pad=0)

    def padded(self, x: Map, name: str, *, channels: tuple[int, int] = (0, 0), bottom: int = 0, right: int = 0) -> Map:
        """Zeros around the channels, or below and at the right of the image."""
        if not (any(channels) or bottom or right):
            return x
        time = [(0, 0)] * (len(x.sides) - 2)
        pads = _before_and_after([(0, 0), channels, *time, (0, bottom), (0, right)])
        output = self.op("Pad", [x.name, self.constant(f"{name}/pads", pads, np.int64)], name)
        return Map(output, x.channels + sum(channels), (*x.sides[:-2], x.height + bottom, x.width + right))

    def bordered(self, x: Map, name: str, ends: Sequence[tuple[int, int]], mode: str) -> Map:
        """More numbers before and after each side, which are there by `mode`: `edge`, `reflect` or `constant` zeros."""
        pads = self.constant(f"{name}/pads", _before_and_after([(0, 0), (0, 0), *ends]), np.int64)
        sides = tuple(side + sum(pair) for side, pair in zip(x.sides, ends, strict=True))
        return Map(self.op("Pad", [x.name, pads], name, mode=mode), x.channels, sides)

    def cut(self, x: Map, name: str, sides: Sides, step: int = 1) -> Map:
        """Every `step`-th number of the first `sides` along each axis."""
        if (sides, step) == (x.sides, 1):
            return x
        axes = range(2, 2 + len(sides))
        whole = {"starts": [0] * len(sides), "ends": sides, "axes": axes, "steps": [step] * len(sides)}
        inputs = [self.constant(f"{name}/{field}", list(values), np.int64) for field, values in whole.items()]
        return Map(self.op("Slice", [x.name, *inputs], name), x.channels, tuple(-(-side // step) for side in sides))

    def resized(self, x: Map, name: str, height: int, width: int, **fields: Any) -> Map:
        """`Resize` to `height` x `width` pixels."""
        sizes = self.constant(f"{name}/sizes", (height, width), np.int64)
        output = self.op("Resize", [x.name, "", "", sizes], name, axes=(2, 3), **fields)
        return Map(output, x.channels, (height, width))

    def model(
        self,
        inputs: Mapping[str, tuple[Any, Sequence[Any]]],
        outputs: Mapping[str, tuple[str, Sequence[Any]]],
        facts: Mapping[str, str],
    ) -> Any:
        """The graph as a `ModelProto`, checked.

        Args:
          inputs: by name, the dtype and the shape.
          outputs: by name, the value in the graph and its shape, float32.
          facts: for people and programs, by name.
        """
        import onnx
        from onnx import helper, numpy_helper

        kind = lambda dtype: helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        named = [helper.make_node("Identity", [value], [name], name=name) for name, (value, _) in outputs.items()]
        graph = helper.make_graph(
            [*self.nodes, *named],
            "network",
            [helper.make_tensor_value_info(name, kind(dtype), shape) for name, (dtype, shape) in inputs.items()],
            [helper.make_tensor_value_info(name, kind(np.float32), shape) for name, (_, shape) in outputs.items()],
            [numpy_helper.from_array(np.asarray(array, order="C"), name) for name, array in self.constants.items()],
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR, producer_name="resnet_jax"
        )
        helper.set_model_props(model, dict(facts))
        onnx.checker.check_model(model, full_check=True)
        return model

    def _windows(
        self,
        x: Map,
        kind: str,
        name: str,
        sizes: Sides,
        strides: Sides,
        pads: Sequence[tuple[int, int]],
        **fields: Any,
    ) -> Map:
        output = self.op(
            kind, [x.name], name, kernel_shape=sizes, strides=strides, pads=_before_and_after(pads), **fields
        )
        sides = (
            (side + sum(pad) - size) // stride + 1
            for side, pad, size, stride in zip(x.sides, pads, sizes, strides, strict=True)
        )
        return x._replace(name=output, sides=tuple(sides))


def _before_and_after(pads: Sequence[tuple[int, int]]) -> list[int]:
    """As ONNX wants them: what is before each axis, and then what is after each."""
    return [before for before, _ in pads] + [after for _, after in pads]
