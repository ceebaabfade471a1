"""Batch normalisation folded into the convolution before it.

With running statistics a batch normalisation multiplies each channel by a number and adds another. The convolution
before it can do both: with a kernel that is multiplied already, and a bias. Where a convolution follows the norm
instead, it cannot, since it pads with zeros that the norm would have moved. So pre-activation blocks keep some norms.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, PyTree

from resnet_jax.errors import ModelError
from resnet_jax.models import BatchNorm, Conv, ResNet
from resnet_jax.models.blocks import BLOCKS
from resnet_jax.models.blueprint import draw
from resnet_jax.models.forms import forms_of
from resnet_jax.models.headed import Headed, refuse_boxes, resnet_in, with_options
from resnet_jax.models.layers import standardized
from resnet_jax.models.shortcuts import SHORTCUTS
from resnet_jax.models.stems import STEMS
from resnet_jax.weights.channels import input_conv

Path = tuple[str, ...]  # of a module, such as ("layer1_0", "conv1")


class Folded(NamedTuple):
    """A network without the norms that could be folded. It only predicts: it has no statistics to train with.

    Attributes:
      folded: how many norms the convolutions do now.
      kept: how many norms remain.
    """

    model: Any
    variables: PyTree[Array]
    folded: int
    kept: int


def fold(model: nn.Module, variables: PyTree[Array]) -> Folded:
    """Folds every batch normalisation that follows a convolution into it. It is exact, except for rounding.

    The numbers are computed in float64 on the host, and rounded to the dtype that they had. A network without batch
    normalisation stays as it is, and so does a folded one.

    Args:
      model: a network of `create_model`.
      variables: its `{"params", "batch_stats"}`.

    Raises:
      ModelError: the network has a block, a shortcut or a stem of your own. Folding cannot know whether a norm there
        follows a convolution.
    """
    backbone = check_known(model)
    layers = _layers(model, variables)
    if backbone.folded or not any(layers.before.values()):
        return Folded(model, variables, 0, len(layers.before))
    folded = with_options(model, folded=True, weight_standardization=False)
    left = _norms_left(folded, layers.images)
    pairs = {conv: norm for norm, conv in layers.before.items() if conv and norm not in left}
    flat = dict(flatten_dict({name: variables[name] for name in ("params", "batch_stats")}))
    for conv in layers.convolutions:
        at = ("params", *conv, "kernel")
        dtype, kernel = flat[at].dtype, np.asarray(flat[at])
        bias = np.asarray(flat.get((*at[:-1], "bias"), np.zeros(kernel.shape[-1])), np.float64)
        if backbone.weight_standardization:
            with jax.enable_x64(True):
                kernel = np.asarray(standardized(jnp.asarray(kernel, jnp.float64)))
        if conv in pairs:
            norm = pairs[conv]
            mean, var = (np.asarray(flat.pop(("batch_stats", *norm, leaf)), np.float64) for leaf in ("mean", "var"))
            scale, shift = (np.asarray(flat.pop(("params", *norm, leaf)), np.float64) for leaf in ("scale", "bias"))
            factor = scale / np.sqrt(var + layers.epsilon)
            kernel, bias = kernel * factor, shift + (bias - mean) * factor
        flat[at], flat[*at[:-1], "bias"] = jnp.asarray(kernel, dtype), jnp.asarray(bias, dtype)
    return Folded(folded, unflatten_dict(flat), len(pairs), len(layers.before) - len(pairs))


def check_known(model: nn.Module) -> ResNet:
    """The backbone of a network, or the network itself, if all its parts are of this package.

    Raises:
      ModelError: names the part that is not; the network finds objects.
    """
    if hasattr(model, "as_trained"):
        raise ModelError(model.as_trained)
    refuse_boxes(model, "fold")
    if not isinstance(model, ResNet | Headed):
        raise ModelError(
            f"{type(model).__name__} is no network of create_model, so nothing is known of its layers; pass a ResNet, "
            "or a network over one"
        )
    backbone = resnet_in(model)
    plan = draw(backbone)
    for part, layer, own, known in (
        ("block", "layer1_0", plan.block, BLOCKS),
        ("shortcut", "the shortcut of layer1_0", plan.shortcut, SHORTCUTS),
        ("stem", "the stem", plan.stem, STEMS),
    ):
        if own not in known.values():
            name = getattr(own, "__name__", repr(own))
            raise ModelError(
                f"{layer} is {name}, which is not among the known parts, so nothing is known of its layers; "
                f"choose a {part} by name: {', '.join(known)}"
            )
    return backbone


class _Layers(NamedTuple):
    """Attributes:
    convolutions: all of them.
    before: for each norm, the convolution whose output it gets. None: it gets something else, or is no `BatchNorm`.
    epsilon: of the batch normalisations.
    images: the shape and the dtype with which it was traced.
    """

    convolutions: list[Path]
    before: dict[Path, Path | None]
    epsilon: float
    images: jax.ShapeDtypeStruct


def _layers(model: Any, variables: PyTree[Array]) -> _Layers:
    """The layers, as they are called while the network is traced."""
    convolutions: list[tuple[Path, Array]] = []
    before: dict[Path, Path | None] = {}
    epsilon = 0.0

    def watch(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        nonlocal epsilon
        module, result = context.module, call(*args, **kwargs)
        if context.method_name == "__call__" and isinstance(module, Conv):
            convolutions.append((module.path, result))
        if context.method_name == "__call__" and isinstance(module, (BatchNorm, nn.BatchNorm, nn.GroupNorm)):
            before[module.path] = None
            if type(module) is BatchNorm:
                epsilon = module.epsilon
                before[module.path] = next((path for path, output in convolutions if output is args[0]), None)
        return result

    channels = image_channels(model, variables)
    images = jax.ShapeDtypeStruct((1, *model.sides, channels), model.param_dtype)
    with nn.intercept_methods(watch), forms_of("cpu"):  # to trace one form of each layer takes half of the time
        jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, images)
    return _Layers([path for path, _ in convolutions], before, epsilon, images)


def image_channels(model: Any, variables: PyTree[Array]) -> int:
    """Of the images."""
    arrays = flatten_dict(dict(variables), sep="/")
    folded = 4 if draw(resnet_in(model)).stem is STEMS["space_to_depth"] else 1
    return arrays[input_conv(arrays)].shape[-2] // folded


def _norms_left(model: Any, images: jax.ShapeDtypeStruct) -> set[Path]:
    """The paths of the batch normalisations of a network."""
    with forms_of("cpu"):
        shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    return {path[:-1] for path in flatten_dict(shapes.get("batch_stats", {}))}
