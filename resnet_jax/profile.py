"""What a network costs, computed from the network itself."""

import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from resnet_jax.models import ResNet


def count_parameters(model: ResNet, *, channels: int = 3) -> int:
    """Trainable numbers, without BatchNorm's running statistics."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(_shapes(model, channels, 64)["params"]))


def count_macs(model: ResNet, *, image_size: int = 224, channels: int = 3) -> int:
    """Multiply-accumulates of one image's forward pass: convolutions and matrix products, as papers count "FLOPs"."""
    variables = _shapes(model, channels, image_size)
    image = jax.ShapeDtypeStruct((1, image_size, image_size, channels), jnp.float32)
    traced = jax.make_jaxpr(lambda variables, image: model.apply(variables, image, train=False))(variables, image)
    return sum(map(_macs, _equations(traced.jaxpr)))


def _shapes(model: ResNet, channels: int, image_size: int) -> dict:
    image = jnp.zeros((1, image_size, image_size, channels))
    return jax.eval_shape(lambda key: model.init(key, image, train=False), jax.random.key(0))


def _equations(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            if isinstance(value, (Jaxpr, ClosedJaxpr)):
                yield from _equations(value.jaxpr if isinstance(value, ClosedJaxpr) else value)


def _macs(equation: JaxprEqn) -> int:
    out = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
    if equation.primitive.name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        features = equation.params["dimension_numbers"].rhs_spec[0]
        return out * math.prod(kernel) // kernel[features]
    if equation.primitive.name == "dot_general":
        (contracting, _), _ = equation.params["dimension_numbers"]
        return out * math.prod(equation.invars[0].aval.shape[i] for i in contracting)
    return 0
