"""A quantised network as one file: its integers, its scales, and which network it was."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, PyTree

from resnet_jax.compress.fold import Folded
from resnet_jax.compress.quantize.calibrate import Quantized
from resnet_jax.compress.quantize.network import SCALES, QuantizedNetwork
from resnet_jax.compress.quantize.scales import Grid, Scales
from resnet_jax.errors import WeightsError
from resnet_jax.files import write_atomically
from resnet_jax.survival.digests import digest_arrays, digest_json

FILE = "quantized.safetensors"
_FACTS = "resnet_jax"


def digest_of(variables: PyTree[Array]) -> str:
    """Of the arrays of a folded network in floating point."""
    return digest_json(digest_arrays(variables))


def save(path: Path, quantized: Quantized, how: Mapping[str, Any]) -> None:
    """Writes the variables as safetensors: `params/conv1/kernel` int8, `kernels/conv1` and `tensors/conv1/scale`
    float32, and so on. The header holds what else `load` needs.

    Args:
      how: how the network was quantised, as JSON, for people.

    Raises:
      StorageError: the file cannot be written.
    """
    from safetensors.numpy import save as to_bytes

    scales = quantized.scales
    facts = {
        "network": digest_of(quantized.float.variables),
        "reads": scales.reads,
        "bits": [scales.weight_bits, scales.activation_bits],
        "how": dict(how),
    }
    write_atomically(path, to_bytes(to_arrays(quantized.variables), {_FACTS: json.dumps(facts)}))


def load(path: Path, network: Folded) -> tuple[Quantized, dict[str, Any]]:
    """Reads what `save` has written: the quantised network, and how it was quantised.

    Args:
      network: the network that was quantised, of `in_float32`.

    Raises:
      WeightsError: there is no such file, it is no quantised network, or that of another network.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise WeightsError(f"there is no {path}; name the folder that quantize wrote")
    try:
        with safe_open(path, "numpy") as file:
            facts = json.loads((file.metadata() or {}).get(_FACTS, "null"))
            flat: dict[str, Any] = {name: jnp.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}. Quantise the network again") from error
    if facts is None:
        raise WeightsError(f"{path} is no quantised network; name the folder that quantize wrote")
    if facts["network"] != digest_of(network.variables):
        raise WeightsError(
            f"{path} was made from another network, or from another checkpoint of it: its digest is "
            f"{facts['network'][:12]}, and that of this one {digest_of(network.variables)[:12]}. Quantise this one"
        )
    like = Scales({}, {}, tuple((layer, place) for layer, place in facts["reads"]), *facts["bits"])
    return Quantized(QuantizedNetwork(network.model), from_arrays(flat, like), network), facts["how"]


def to_arrays(variables: PyTree[Array]) -> dict[str, np.ndarray]:
    """The variables of a `QuantizedNetwork` by name, with the scales among them."""
    scales: Scales = variables[SCALES]
    arrays = {name: leaf for name, leaf in variables.items() if name != SCALES}
    arrays["tensors"] = {place: grid._asdict() for place, grid in scales.tensors.items()}
    arrays["kernels"] = dict(scales.kernels)
    return {name: np.asarray(leaf) for name, leaf in flatten_dict(arrays, sep="/").items()}


def from_arrays(arrays: Mapping[str, Array], like: Scales) -> PyTree[Array]:
    """The variables that `to_arrays` took apart. `like` has the same layers and bits; its numbers are not looked at."""
    flat = dict(arrays)
    places = {name.removeprefix("tensors/").rpartition("/")[0] for name in flat if name.startswith("tensors/")}
    grids = {place: Grid(*(flat.pop(f"tensors/{place}/{part}") for part in Grid._fields)) for place in places}
    kernels = {layer: flat.pop(f"kernels/{layer}") for layer, _ in like.reads}
    return {**unflatten_dict(flat, sep="/"), SCALES: dataclasses.replace(like, tensors=grids, kernels=kernels)}
