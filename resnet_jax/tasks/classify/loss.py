"""Cross entropy of images."""

from resnet_jax.models import ResNet
from resnet_jax.tasks.cross_entropy import loss_of_classes
from resnet_jax.tasks.task import Prepare
from resnet_jax.training.step import Loss


def make_loss(model: ResNet, prepare: Prepare, *, label_smoothing: float = 0.0) -> Loss:
    """Returns the loss of a part of a batch, see `loss_of_classes`. `prepare` gives `image`, normalised."""
    return loss_of_classes(model, prepare, lambda seen: (seen["image"],), label_smoothing=label_smoothing)
