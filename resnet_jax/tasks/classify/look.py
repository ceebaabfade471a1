"""What the network says of images in evaluation."""

from collections.abc import Callable

from jaxtyping import Array, Float, PyTree

from resnet_jax.models import ResNet

Look = Callable[[PyTree[Array], Float[Array, "N H W C"]], Float[Array, "N K"]]
"""`(variables, normalised images) -> logits`."""


def make_look(model: ResNet, *, flip: bool = False) -> Look:
    """Returns the function that gives the logits of a network.

    Args:
      flip: the mean of the logits of an image and of its mirror image. FFCV's recipes take the sum, which names the
        same classes.
    """

    def look(variables: PyTree[Array], images: Float[Array, "N H W C"]) -> Float[Array, "N K"]:
        logits = model.apply(variables, images, train=False)
        return (logits + model.apply(variables, images[:, :, ::-1], train=False)) / 2 if flip else logits

    return look
