"""What it costs to quantise one layer alone."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from resnet_jax.compress.quantize.calibrate import Quantized
from resnet_jax.compress.quantize.placement import Images, placed, with_kernels
from resnet_jax.compress.quantize.scales import Scales, rounded, rounded_kernel

ALL = "all together"
SUM = " (sum)"
_OF_A_BLOCK = ("input", "branch", "shortcut")


class Cost(NamedTuple):
    """Attributes:
    name: of the layer; or of a block, with `SUM` behind it; or `ALL`.
    error: the norm of the difference of the logits, over that of the logits.
    changed: the share of the images, or of the pixels, that get another class.
    """

    name: str
    error: float
    changed: float


def sensitivity(quantized: Quantized, batches: Iterable[Images]) -> list[Cost]:
    """The costs of the layers one by one, in the network's order, and of all together last.

    A layer's kernel is quantised, and the tensor that it reads. Of a block, the tensors that are added are. Everything
    else is in floating point.
    """
    scales, network = quantized.scales, quantized.float
    parts = parts_of(scales)

    @jax.jit
    def look(variables: PyTree[Array], scales: Scales, chosen: dict[str, Bool[Array, ""]], images: Array) -> Any:
        def quantize(x: Array, place: str) -> Array | None:
            grid = scales.tensors.get(place)
            return None if grid is None else jnp.where(chosen[place], rounded(x, grid, scales.activation_bits), x)

        def change(kernel: Array, layer: str) -> Array:
            scale = scales.kernels.get(layer)
            if scale is None:
                return kernel
            return jnp.where(chosen[_kernel(layer)], rounded_kernel(kernel, scale, scales.weight_bits), kernel)

        with placed(quantize):
            out = network.model.apply(with_kernels(variables, change), images, train=False)
        return out["out"] if isinstance(out, dict) else out

    def logits(part: set[str], images: Images) -> Array:
        chosen = {name: jnp.asarray(name in part) for name in (*scales.tensors, *map(_kernel, scales.kernels))}
        return look(network.variables, scales, chosen, images)

    sums = {name: np.zeros(4) for name in parts}
    for images in batches:
        exact = logits(set(), images)
        for name, part in parts.items():
            sums[name] += np.asarray(_compare(logits(part, images), exact), np.float64)
    return [
        Cost(name, float(np.sqrt(squares / max(size, 1e-30))), float(changed / count))
        for name, (squares, size, changed, count) in sums.items()
    ]


def parts_of(scales: Scales) -> dict[str, set[str]]:
    """What is quantised together, by name: places of tensors, and kernels."""
    parts: dict[str, set[str]] = {layer: {_kernel(layer), place} for layer, place in scales.reads}
    read = {place for _, place in scales.reads}
    for place in scales.tensors:
        block, _, last = place.rpartition("/")
        if place not in read:
            parts.setdefault(f"{block if last in _OF_A_BLOCK else place}{SUM}", set()).add(place)
    # The sum of a block comes after its last layer.
    names = list(parts)
    ends = {name: [i for i, one in enumerate(names) if one.startswith(f"{name.removesuffix(SUM)}/")] for name in names}
    ordered = sorted(names, key=lambda name: ends[name][-1] + 0.5 if ends[name] else names.index(name))
    return {name: parts[name] for name in ordered} | {ALL: set().union(*parts.values())}


def _kernel(layer: str) -> str:
    return f"{layer}/kernel"


@jax.jit
def _compare(logits: Float[Array, "N *S K"], exact: Float[Array, "N *S K"]) -> Float[Array, "4"]:
    """The squared error, the squares of what is exact, how many have another class, and how many there are."""
    changed = jnp.argmax(logits, axis=-1) != jnp.argmax(exact, axis=-1)
    return jnp.stack(
        [jnp.sum((logits - exact) ** 2), jnp.sum(exact**2), jnp.sum(changed), jnp.asarray(changed.size, jnp.float32)]
    )
