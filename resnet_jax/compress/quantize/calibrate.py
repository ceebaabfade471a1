"""From a trained network and a few batches of images to a quantised one."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float, PyTree

from resnet_jax.compress.fold import Folded, fold
from resnet_jax.compress.quantize.bias import check_biases, corrected
from resnet_jax.compress.quantize.network import SCALES, QuantizedNetwork, integer_variables
from resnet_jax.compress.quantize.placement import Images, Layer, is_kept, placed
from resnet_jax.compress.quantize.ranges import Histogram, Seen, look_at
from resnet_jax.compress.quantize.scales import Grid, Scales, grid_of, largest_weight
from resnet_jax.compress.quantize.trained import FakeQuantized, apart
from resnet_jax.config import QuantizeConfig
from resnet_jax.errors import ConfigError, DataError, unknown_name
from resnet_jax.models.headed import refuse_boxes, refuse_clips, with_options

MIN_IMAGES = 16
"""Fewer say too little of the range of a tensor."""
MAX_BIAS = 2.0**30
"""The integer of a bias at most. Weights may be so small beside it that their own scale would make it larger."""

Batches = Iterable[Images]


class Quantized(NamedTuple):
    """A network that computes with integers.

    Attributes:
      model, variables: its `apply` and what that takes.
      float: the folded network that it stands for, in float32.
    """

    model: QuantizedNetwork
    variables: PyTree[Array]
    float: Folded

    @property
    def scales(self) -> Scales:
        return self.variables[SCALES]


def quantize(model: Any, variables: PyTree[Array], batches: Callable[[], Batches], config: QuantizeConfig) -> Quantized:
    """Quantises a trained network.

    Args:
      model: a network of `create_model`.
      variables: its `{"params", "batch_stats"}`.
      batches: each call gives the same normalised images, in one or several batches.

    Raises:
      DataError: too few images, or numbers that are not finite.
      ConfigError: `keep_float` names a layer that there is not.
      ModelError: a network with parts of your own; `bias_correction` of a layer without a bias.
    """
    refuse_clips(model, "quantize")
    refuse_boxes(model, "quantize")
    if isinstance(model, FakeQuantized):
        return _as_trained(model, variables, config)
    network = in_float32(model, variables)
    if config.bias_correction:
        check_biases(network, config.keep_float)
    scales = calibrate(network, batches(), config)
    variables = corrected(network, scales, batches()) if config.bias_correction else network.variables
    return Quantized(QuantizedNetwork(network.model), integer_variables(variables, scales), network)


def _as_trained(model: FakeQuantized, variables: PyTree[Array], config: QuantizeConfig) -> Quantized:
    """The network in integers, with the scales that it was trained with. Nothing is calibrated."""
    trained = model.options
    wrong = [
        f"{name} = {getattr(config, name)!r} (trained with {getattr(trained, name)!r})"
        for name in ("weight_bits", "activation_bits", "keep_float")
        if getattr(config, name) != getattr(trained, name)
    ]
    if wrong or config.bias_correction:
        raise ConfigError(
            "the network was trained with quantisation, and is quantised as it was trained: "
            f"{', '.join(wrong or ['bias_correction = True (its biases are trained)'])}; give the values of its config"
        )
    network, scales = in_float32(model, variables), model.scales(variables)
    reads = dict(scales.reads)
    arrays = flatten_dict(dict(network.variables["params"]), sep="/")
    least = {layer: least_scale(arrays, layer, float(scales.tensors[place].scale)) for layer, place in reads.items()}
    kernels = {layer: jnp.maximum(scale, least[layer]) for layer, scale in scales.kernels.items()}
    scales = replace(scales, kernels=kernels)
    return Quantized(QuantizedNetwork(network.model), integer_variables(network.variables, scales), network)


def in_float32(model: Any, variables: PyTree[Array]) -> Folded:
    """The folded network, computing in float32: what quantisation starts from."""
    if isinstance(model, FakeQuantized):
        return Folded(model.network, apart(variables)[0], 0, 0)
    folded = fold(with_options(model, dtype=None, param_dtype=jnp.float32, remat=()), variables)
    return folded._replace(variables=jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), folded.variables))


def calibrate(network: Folded, batches: Batches, config: QuantizeConfig) -> Scales:
    """The scales for a network, from the tensors that it computes of some images.

    Args:
      network: of `in_float32`.

    Raises:
      DataError: too few images, or numbers that are not finite.
      ConfigError: `keep_float` names a layer that there is not.
    """
    reads: dict[str, str] = {}
    places: set[str] = set()

    @jax.jit
    def look(variables: PyTree[Array], images: Array) -> dict[str, Seen]:
        seen: dict[str, Seen] = {}

        def note(x: Array, place: str) -> Array | None:
            places.add(place)
            if is_kept(place, config.keep_float):
                return None
            seen[place] = look_at(x)
            return x

        def compute(layer: Layer, x: Array, call: Any) -> Array:
            places.add(layer.name)
            if layer.reads is not None and not is_kept(layer.name, config.keep_float):
                reads[layer.name] = layer.reads
            return call(x)

        with placed(note, compute):
            network.model.apply(variables, images, train=False)
        return seen

    histograms: dict[str, Histogram] = {}
    images = 0
    for number, batch in enumerate(batches, start=1):
        if number == 1:
            jax.eval_shape(look, network.variables, batch)
            _check_kept(config.keep_float, places)
        for place, seen in jax.device_get(look(network.variables, batch)).items():
            if not np.isfinite([seen.low, seen.high]).all():
                raise DataError(
                    f"calibration: batch {number} makes numbers in {place} that are not finite, so they have no range; "
                    f"{'look at its images' if np.isfinite(batch).all() else 'its images are not finite: mend them'}"
                    ", or calibrate with others"
                )
            histograms.setdefault(place, Histogram()).add(seen)
        images += len(batch)
    if images < MIN_IMAGES:
        raise DataError(
            f"calibration saw {images} images, and needs at least {MIN_IMAGES} to know the range of a tensor; give "
            "more (128 to 1024 are usual)"
        )
    tensors = {
        place: grid_of(*histogram.range(config), config.activation_bits) for place, histogram in histograms.items()
    }
    kernels = kernel_scales(network.variables, tensors, reads, config.weight_bits)
    return Scales(tensors, kernels, tuple(reads.items()), config.weight_bits, config.activation_bits)


def _check_kept(kept: Iterable[str], places: Iterable[str]) -> None:
    for name in kept:
        if not any(is_kept(place, [name]) for place in places):
            raise ConfigError(unknown_name("layer to keep in floating point", name, places))


def kernel_scales(
    variables: PyTree[Array], tensors: dict[str, Grid], reads: dict[str, str], bits: int
) -> dict[str, Float[Array, " O"]]:
    """The scale of each output channel of each kernel: its largest weight has the largest integer."""
    arrays = flatten_dict(dict(variables["params"]), sep="/")
    scales = {}
    for layer, place in reads.items():
        kernel = np.asarray(arrays[f"{layer}/kernel"])
        scale = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1))) / largest_weight(bits)
        scale = np.maximum(scale, least_scale(arrays, layer, float(tensors[place].scale)))
        scales[layer] = jnp.asarray(np.where(scale > 0, scale, 1), jnp.float32)
    return scales


def least_scale(arrays: Mapping[str, Array], layer: str, tensor: float) -> Float[np.ndarray, "*O"]:
    """The least scale of each channel of a kernel with which the integers of the biases are small enough.

    Args:
      arrays: parameters by name.
      tensor: the scale of what the layer reads.
    """
    return np.abs(np.asarray(arrays.get(f"{layer}/bias", 0.0))) / (tensor * MAX_BIAS)
