"""A network that is trained with the numbers that integers stand for, so that it can be used in integers."""

from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, PyTree

from resnet_jax.compress.fold import check_known, image_channels
from resnet_jax.compress.quantize.placement import Layer, is_kept, placed, with_kernels
from resnet_jax.compress.quantize.scales import Grid, Scales, largest_activation, largest_weight, of_channels
from resnet_jax.compress.quantize.steps import SMALLEST, shortened, stepped
from resnet_jax.config import Qat
from resnet_jax.errors import ModelError
from resnet_jax.models.headed import refuse_boxes, refuse_clips, with_options

GRIDS = "grids"
"""Where the parameters of a network keep its steps: `grids/tensors/PLACE/scale` and `zero_point`, and
`grids/kernels/LAYER/scale`."""
ZERO_POINT = "zero_point"


@dataclass(frozen=True)
class FakeQuantized:
    """A folded network whose kernels and tensors are rounded to grids, in training and in use, all in floating point.

    It is called as the network that it was. Its derivatives are those of `steps.stepped`.

    Attributes:
      network: folded, in float32.
      options: how many bits, and which layers stay in floating point.
    """

    network: Any
    options: Qat

    @property
    def as_trained(self) -> str:
        """Why other forms of the network are refused."""
        return (
            "the network was trained for integers, with its norms folded, and is used as it was trained: export it "
            "with --int8, or quantize it; leave --fold out"
        )

    @property
    def num_classes(self) -> int:
        return self.network.num_classes

    @property
    def stage_sizes(self) -> tuple[int, ...]:
        return self.network.stage_sizes

    def clone(self, **options: Any) -> Self:
        """Raises a ModelError, since the network has no other form."""
        raise ModelError(self.as_trained)

    def on_axis(self, axis: str) -> Self:
        """The same: it has no statistics, so nothing depends on where the batch lies."""
        return self

    def init(self, key: Array, images: Float[Array, "N H W C"], *, train: bool) -> PyTree[Array]:
        """Initial variables. Each step is 1, until calibration finds a better one."""
        tensors: dict[str, Grid] = {}
        kernels: dict[str, Array] = {}

        def note(x: Array, place: str) -> Array | None:
            if is_kept(place, self.options.keep_float):
                return None
            tensors[place] = Grid(jnp.ones(()), jnp.zeros(()))
            return x

        def compute(layer: Layer, x: Array, call: Any) -> Array:
            y = call(x)
            if layer.reads is not None and not is_kept(layer.name, self.options.keep_float):
                kernels[layer.name] = jnp.ones(y.shape[-1])
            return y

        with placed(note, compute):
            variables = self.network.init(key, images, train=train)
        return with_grids(variables, tensors, kernels)

    def apply(self, variables: PyTree[Array], images: Float[Array, "N H W C"], **options: Any) -> Any:
        """What the network puts out, as its own `apply` does."""
        own, grids = apart(variables)
        steps = flatten_dict(grids, sep="/")

        def quantize(x: Array, place: str) -> Array | None:
            if f"tensors/{place}/scale" not in steps:
                return None
            scale, zero_point = (steps[f"tensors/{place}/{part}"] for part in Grid._fields)
            high = largest_activation(self.options.activation_bits) - zero_point
            return stepped(x, shortened(scale), -zero_point, high, numbers=x[0].size)

        def change(kernel: Array, layer: str) -> Array:
            if f"kernels/{layer}/scale" not in steps:
                return kernel
            end = largest_weight(self.options.weight_bits)
            scale = of_channels(steps[f"kernels/{layer}/scale"], kernel)
            return stepped(kernel, scale, -end, end, numbers=kernel[..., 0].size)

        with placed(quantize):
            return self.network.apply(with_kernels(own, change), images, **options)

    def scales(self, variables: PyTree[Array]) -> Scales:
        """The steps, as integers need them."""
        own, grids = apart(variables)
        reads: dict[str, str] = {}

        def compute(layer: Layer, x: Array, call: Any) -> Array:
            if layer.reads is not None and not is_kept(layer.name, self.options.keep_float):
                reads[layer.name] = layer.reads
            return call(x)

        def look(images: Array) -> Array:
            with placed(lambda x, place: None if is_kept(place, self.options.keep_float) else x, compute):
                return self.network.apply(own, images, train=False)

        channels = image_channels(self.network, own)
        jax.eval_shape(look, jax.ShapeDtypeStruct((1, *self.network.sides, channels), jnp.float32))
        steps = flatten_dict(grids, sep="/")
        places = [name.removeprefix("tensors/").rpartition("/")[0] for name in steps if name.startswith("tensors/")]
        tensors = {
            place: Grid(
                shortened(jnp.maximum(steps[f"tensors/{place}/scale"], SMALLEST)),
                jnp.int32(steps[f"tensors/{place}/{ZERO_POINT}"]),
            )
            for place in dict.fromkeys(places)
        }
        kernels = {layer: jnp.maximum(steps[f"kernels/{layer}/scale"], SMALLEST) for layer in reads}
        bits = self.options.weight_bits, self.options.activation_bits
        return Scales(tensors, kernels, tuple(reads.items()), *bits)


def fake_quantized_network(model: Any, options: Qat) -> FakeQuantized:
    """The network that quantisation-aware training trains in place of `model`: folded, and what cannot be folded
    normalises with its running statistics, which do not move.

    Raises:
      ModelError: the network has a part of your own.
    """
    refuse_clips(model, "quantize")
    refuse_boxes(model, "quantize")
    backbone = check_known(model)
    fixed = {"norm": "frozen"} if backbone.norm == "batch" else {}
    folded = {"folded": True, "weight_standardization": False} if backbone.norm in ("batch", "frozen") else {}
    return FakeQuantized(with_options(model, dtype=None, param_dtype=jnp.float32, **fixed, **folded), options)


def with_grids(variables: PyTree[Array], tensors: dict[str, Grid], kernels: dict[str, Array]) -> PyTree[Array]:
    """The variables of a network with steps among its parameters, all in float32."""
    flat = {f"kernels/{layer}/scale": scale for layer, scale in kernels.items()}
    for place, grid in tensors.items():
        flat |= {f"tensors/{place}/{part}": value for part, value in grid._asdict().items()}
    grids = unflatten_dict({name: jnp.asarray(value, jnp.float32) for name, value in flat.items()}, sep="/")
    return {**variables, "params": {**variables["params"], GRIDS: grids}}


def apart(variables: PyTree[Array]) -> tuple[PyTree[Array], PyTree[Array]]:
    """The variables of the network alone, and its steps."""
    params = dict(variables["params"])
    grids = params.pop(GRIDS)
    return {**variables, "params": params}, grids
