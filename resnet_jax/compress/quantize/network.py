"""Networks that compute with integers."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, PyTree

from resnet_jax.compress.quantize.integers import products
from resnet_jax.compress.quantize.placement import Compute, Layer, Quantize, placed, with_kernels
from resnet_jax.compress.quantize.scales import (
    Scales,
    kernel_integers,
    of_channels,
    rounded,
    rounded_kernel,
    to_integers,
    to_numbers,
)
from resnet_jax.errors import ModelError

SCALES = "scales"
"""The collection of variables with the `Scales` of a quantised network."""


@dataclass(frozen=True)
class QuantizedNetwork:
    """A network whose layers compute with integers. It is called as the network that it was, and only predicts.

    Its variables hold int8 kernels, int32 biases and a collection `scales`. What is not quantised is in them as it was.
    Give them to a compiled program as arguments.

    Attributes:
      network: the network whose layers it has.
    """

    network: Any

    def apply(
        self, variables: PyTree[Array], images: Float[Array, "N H W C"], *, train: bool = False, features: bool = False
    ) -> Any:
        """What the network puts out, as its own `apply` does.

        Raises:
          ModelError: `train` is true.
        """
        if train:
            raise ModelError(
                "a quantised network only predicts, since integers have no gradient; train the network that it was "
                "quantised from, with train=True"
            )
        variables = dict(variables)
        scales: Scales = variables.pop(SCALES)
        with placed(*_in_integers(variables, scales)):
            return self.network.apply(variables, images, train=False, features=features)


def _in_integers(variables: PyTree[Array], scales: Scales) -> tuple[Quantize, Compute]:
    arrays = flatten_dict(variables["params"], sep="/")
    integers: dict[str, Array] = {}
    reads, bits = dict(scales.reads), (scales.activation_bits, scales.weight_bits)

    def quantize(x: Array, place: str) -> Array | None:
        if place not in scales.tensors:
            return None
        integers[place] = to_integers(x, scales.tensors[place], scales.activation_bits)
        return to_numbers(integers[place], scales.tensors[place])

    def compute(layer: Layer, x: Array, call: Any) -> Array:
        if layer.name not in scales.kernels:
            return call(x)
        place, kernel = reads[layer.name], arrays[f"{layer.name}/kernel"]
        grid = scales.tensors[place]
        total = products(layer.module, integers[place], grid.zero_point, kernel, bits)
        bias = arrays.get(f"{layer.name}/bias")
        total = total if bias is None else total + of_channels(bias, total)
        return total.astype(jnp.float32) * of_channels(grid.scale * scales.kernels[layer.name], total)

    return quantize, compute


def integer_variables(variables: PyTree[Array], scales: Scales) -> PyTree[Array]:
    """The variables of a `QuantizedNetwork`.

    Args:
      variables: of the network in floating point, folded.
    """
    flat = dict(flatten_dict(dict(variables), sep="/"))
    for layer, place in scales.reads:
        kernel, bias = f"params/{layer}/kernel", f"params/{layer}/bias"
        flat[kernel] = kernel_integers(flat[kernel], scales.kernels[layer], scales.weight_bits)
        if bias in flat:
            flat[bias] = jnp.round(flat[bias] / (scales.tensors[place].scale * scales.kernels[layer])).astype(jnp.int32)
    return {**unflatten_dict(flat, sep="/"), SCALES: scales}


def fake_quantized(
    network: Any, variables: PyTree[Array], scales: Scales, images: Float[Array, "N H W C"], **options: Any
) -> Any:
    """What the network puts out when its kernels and tensors are rounded to their grids, all in floating point.

    It can be differentiated with respect to `variables`. Sums are rounded as float32 rounds them, so the next integers
    may differ by one from those of a `QuantizedNetwork`.

    Args:
      variables: in floating point.
      **options: for `network.apply`, such as `train`.
    """

    def quantize(x: Array, place: str) -> Array | None:
        grid = scales.tensors.get(place)
        return None if grid is None else rounded(x, grid, scales.activation_bits)

    with placed(quantize):
        return network.apply(fake_kernels(variables, scales), images, **options)


def fake_kernels(variables: PyTree[Array], scales: Scales) -> PyTree[Array]:
    """The variables with every kernel rounded to its grid."""

    def change(kernel: Array, layer: str) -> Array:
        scale = scales.kernels.get(layer)
        return kernel if scale is None else rounded_kernel(kernel, scale, scales.weight_bits)

    return with_kernels(variables, change)


def bytes_of_arrays(variables: PyTree[Array]) -> int:
    """How many bytes all arrays take."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(variables))
