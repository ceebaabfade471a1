"""Bias correction: the mean error that quantisation makes in a channel can be taken off its bias."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, PyTree

from resnet_jax.compress.fold import Folded
from resnet_jax.compress.quantize.network import fake_kernels
from resnet_jax.compress.quantize.placement import Images, Layer, is_kept, placed
from resnet_jax.compress.quantize.scales import Scales, rounded
from resnet_jax.errors import ModelError


def check_biases(network: Folded, keep_float: Iterable[str]) -> None:
    """Raises a ModelError that names a layer without a bias, among those that are to be quantised."""
    arrays = flatten_dict(dict(network.variables["params"]), sep="/")
    for name in arrays:
        layer, _, last = name.rpartition("/")
        if last == "kernel" and f"{layer}/bias" not in arrays and not is_kept(layer, keep_float):
            raise ModelError(
                f"bias correction needs a bias in each layer, and {layer} has none, since no norm was folded into it; "
                "leave bias correction out, or keep the layer in floating point"
            )


def corrected(network: Folded, scales: Scales, batches: Iterable[Images]) -> PyTree[Array]:
    """The variables of a network with other biases: each channel of each quantised layer then has the mean that it has
    in floating point, if the layer's input is the same (Nagel et al. 2019, arXiv:1906.04721, section 4.2).
    """
    flat = dict(flatten_dict(dict(network.variables), sep="/"))

    @jax.jit
    def errors(variables: PyTree[Array], scales: Scales, images: Array) -> dict[str, Float[Array, " O"]]:
        exact: dict[str, Array] = {}
        found: dict[str, Array] = {}

        def note(layer: Layer, x: Array, call: Any) -> Array:
            exact[layer.name] = call(x)
            return exact[layer.name]

        def compare(layer: Layer, x: Array, call: Any) -> Array:
            if layer.name in scales.kernels:
                y = call(rounded(x, scales.tensors[dict(scales.reads)[layer.name]], scales.activation_bits))
                found[layer.name] = jnp.mean(y - exact[layer.name], axis=tuple(range(y.ndim - 1)))
            return exact[layer.name]  # so the next layers see what they see in floating point

        for weights, compute in ((variables, note), (fake_kernels(variables, scales), compare)):
            with placed(lambda x, place: None, compute):
                network.model.apply(weights, images, train=False)
        return found

    sums: dict[str, Any] = {}
    count = 0
    for batch in batches:
        for layer, error in jax.device_get(errors(network.variables, scales, batch)).items():
            sums[layer] = sums.get(layer, 0) + len(batch) * error.astype(np.float64)
        count += len(batch)
    for layer, error in sums.items():
        flat[f"params/{layer}/bias"] = flat[f"params/{layer}/bias"] - jnp.asarray(error / count, jnp.float32)
    return unflatten_dict(flat, sep="/")
