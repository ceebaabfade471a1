"""Grad-CAM and Grad-CAM++: where in the map of a stage a class is seen."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, UInt8

from resnet_jax.analysis.attention.heat import (
    Classes,
    Heat,
    Images,
    check_classes,
    check_images,
    enlarge,
    in_batches,
    map_of,
)
from resnet_jax.config import Preset
from resnet_jax.data import normalize
from resnet_jax.models import ResNet
from resnet_jax.run.network import Network

BATCH = 32


def grad_cam(
    network: Network,
    images: Images,
    classes: Classes | None = None,
    *,
    stage: str | None = None,
    plus: bool = False,
    batch_size: int = BATCH,
) -> Heat:
    """Heat maps of a class for each image, as large as the images, each between 0 and 1.

    What the channels of a stage put out is added up, with a weight for each channel, and what is negative is dropped.
    Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2) takes as weight the mean over the map of the
    gradient of the class's logit. Grad-CAM++ (Chattopadhay et al. 2018, arXiv:1710.11063, equation 19) takes the
    positive gradients, each with its own share.

    Args:
      images: as the network sees them, before normalisation: `load_image(path, network.preset)`, or `images_of`.
      classes: of each image, the class to look for; without it the one that the network names.
      stage: `stem`, `stage1`, ...; by default the last stage.
      plus: Grad-CAM++.

    Raises:
      ConfigError: a stage or a class that the network lacks.
      DataError: no image, or images of other channels than the network's.
    """
    check_images(network, images)
    stage = map_of(network, stage)
    classes = predicted(network, images, batch_size) if classes is None else classes
    classes = check_classes(network, classes, len(images))
    side = images.shape[1]

    def compute(batch: Images, of: Classes) -> Float[Array, "N S S"]:
        return enlarge(cams(network, batch, of, stage=stage, plus=plus), side)

    return in_batches(compute, images, classes, batch_size)


def predicted(network: Network, images: Images, batch_size: int = BATCH) -> Classes:
    """The class that the network names for each image. Raises as `grad_cam` does."""
    check_images(network, images)
    return np.argmax(probabilities(network, images, batch_size), axis=-1)


def probabilities(network: Network, images: Images, batch_size: int = BATCH) -> Float[np.ndarray, "N K"]:
    """Of every class, for each image."""

    def compute(batch: Images, _: Classes) -> Float[Array, "N K"]:
        return _probabilities(network.model, network.preset, network.variables, batch)

    return in_batches(compute, images, np.zeros(len(images), np.int32), batch_size)


@partial(jax.jit, static_argnames=("model", "preset"))
def _probabilities(
    model: ResNet, preset: Preset, variables: PyTree[Array], images: UInt8[Array, "N S S C"]
) -> Float[Array, "N K"]:
    return jax.nn.softmax(model.apply(variables, normalize(images, preset), train=False))


def cams(network: Network, images: Images, classes: Classes, *, stage: str, plus: bool) -> Float[Array, "N H W"]:
    """The maps at the size of the stage, not negative and not scaled."""
    at_stage = gradient_and_maps(network.model, network.preset, network.variables, images, classes, stage=stage)
    return _weighted_sum(*at_stage, plus=plus)


@partial(jax.jit, static_argnames=("model", "preset", "stage"))
def gradient_and_maps(
    model: ResNet,
    preset: Preset,
    variables: PyTree[Array],
    images: UInt8[Array, "N S S C"],
    classes: Int[Array, " N"],
    *,
    stage: str,
) -> tuple[Float[Array, "N H W D"], Float[Array, "N H W D"]]:
    """What a stage puts out, and the gradient of each image's logit of its class with respect to it."""
    x = normalize(images, preset)

    def logits_of(added: Float[Array, "N H W D"]) -> tuple[Float[Array, ""], Float[Array, "N H W D"]]:
        out = model.apply({**variables, "perturbations": {stage: added}}, x, train=False, features=True)
        # Images do not depend on each other, so the gradient of the sum holds that of each image's own logit.
        return jnp.sum(out["logits"][jnp.arange(len(x)), classes]), out[stage]

    like = jax.eval_shape(lambda: model.apply(variables, x, train=False, features=True)[stage])
    gradient, maps = jax.grad(logits_of, has_aux=True)(jnp.zeros(like.shape, like.dtype))
    return gradient.astype(jnp.float32), maps.astype(jnp.float32)


@partial(jax.jit, static_argnames="plus")
def _weighted_sum(
    gradient: Float[Array, "N H W D"], maps: Float[Array, "N H W D"], *, plus: bool
) -> Float[Array, "N H W"]:
    weights = _plus_weights(gradient, maps) if plus else jnp.mean(gradient, axis=(1, 2))
    return jax.nn.relu(jnp.einsum("nhwd,nd->nhw", maps, weights, precision="highest"))


def _plus_weights(gradient: Float[Array, "N H W D"], maps: Float[Array, "N H W D"]) -> Float[Array, "N D"]:
    """Equation 19 holds where the score is the exponential of the logit: its derivatives are then powers of the logit's
    gradient. 1e-6, and the logit's gradient in equation 7, as in the package grad-cam."""
    total = jnp.sum(maps, axis=(1, 2), keepdims=True)
    share = gradient**2 / (2 * gradient**2 + total * gradient**3 + 1e-6)
    return jnp.sum(jnp.where(gradient != 0, share, 0) * jax.nn.relu(gradient), axis=(1, 2))
