"""From the weights of a network for images to those of the same network for clips (Carreira & Zisserman 2017,
arXiv:1705.07750, section 2.2)."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, PyTree

from resnet_jax.errors import WeightsError, unknown_name
from resnet_jax.models import ResNet, variable_shapes
from resnet_jax.weights.channels import RGB, input_conv
from resnet_jax.weights.names import COUNTERS
from resnet_jax.weights.narrowing import first_few

How = Literal["centred", "repeated"]


def inflate(variables: PyTree[Array], model: ResNet, how: How = "centred") -> PyTree[Array]:
    """The variables of `model`, which sees clips, from those of the same network for images.

    On a clip of equal frames each stage puts out what the network for images does. `centred` is so by its nature.
    `repeated` is so where the network has `time_padding="border"`; with zeros, as I3D has them, the frames near the
    ends differ.

    Args:
      variables: of `create_model(name)`.
      model: `create_model(name, time="3d")` or `time="mixed"`, with the same options.
      how: `"centred"`: the kernel of images in the middle, and zeros before and after. `"repeated"`: the same kernel at
        each place, divided by their number.

    Raises:
      WeightsError: `model` sees images, or has layers that no network for images has; or the arrays do not fit it.
    """
    if how not in get_args(How):
        raise WeightsError(unknown_name("way to inflate", how, get_args(How)))
    check_inflatable(model)
    found = flatten_dict(dict(variables), sep="/")
    channels = found[stem].shape[-2] if (stem := input_conv(found)) else RGB
    like = flatten_dict(variable_shapes(model, channels=channels), sep="/")
    made = inflate_arrays(found, like, how)
    counts = {name for name in made if name.startswith(f"{COUNTERS}/")}
    lines = [f"{name}: not in the weights" for name in like if name not in made]
    lines += [f"{name}: only in the weights" for name in made if name not in like and name not in counts]
    lines += [
        f"{name}: {made[name].shape} (inflated) != {leaf.shape} (network)"
        for name, leaf in like.items()
        if name in made and made[name].shape != leaf.shape
    ]
    if lines:
        raise WeightsError(
            f"the weights are not those of this network for images; {len(lines)} arrays differ: {first_few(lines)}. "
            "Pass the variables of create_model(name), and a model of the same name and options with time='3d'"
        )
    return unflatten_dict(
        {name: jnp.asarray(array) if name in like else array for name, array in made.items()}, sep="/"
    )


def check_inflatable(model: Any) -> None:
    """Raises a WeightsError unless the layers of `model` are those of a network for images with an axis more."""
    if not isinstance(model, ResNet) or model.time is None:
        raise WeightsError(
            f"inflate makes the weights of a network for clips, and {type(model).__name__} with time = "
            f"{getattr(model, 'time', None)!r} is none; pass create_model(name, time='3d')"
        )
    if model.time == "2+1d":
        raise WeightsError(
            "time = '2+1d' has norms and convolutions in time that no network for images has, so it cannot be "
            "inflated; choose time='3d' or time='mixed'"
        )
    if model.weight_standardization:
        raise WeightsError(
            "weight_standardization = True changes inflated kernels, since it takes their mean and variance over all "
            "three axes; pass weight_standardization=False"
        )


def inflate_arrays(found: Mapping[str, Any], like: Mapping[str, Any], how: How) -> dict[str, Any]:
    """Arrays by name, where the kernels of images have as many axes as in `like`. Others stay as they are."""
    inflates = lambda name, array: name in like and np.ndim(array) == 4 and len(like[name].shape) == 5
    return {
        name: inflate_kernel(array, like[name].shape[0], how) if inflates(name, array) else array
        for name, array in found.items()
    }


def inflate_kernel(
    kernel: Float[Array | np.ndarray, "H W I O"], depth: int, how: How
) -> Float[np.ndarray, "T H W I O"]:
    """A kernel for `depth` frames."""
    array = np.asarray(kernel)
    if how == "repeated":
        return np.repeat((array / np.asarray(depth, array.dtype))[None], depth, axis=0)
    made = np.zeros((depth, *array.shape), array.dtype)
    made[depth // 2] = array
    return made
