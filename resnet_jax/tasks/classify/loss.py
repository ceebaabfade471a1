"""The losses of images."""

from functools import partial

from resnet_jax.config import Classify
from resnet_jax.models import ResNet
from resnet_jax.tasks.cross_entropy import OfLogits, loss_of_classes
from resnet_jax.tasks.task import Prepare
from resnet_jax.training.losses import binary_cross_entropy, cross_entropy
from resnet_jax.training.step import Loss


def make_loss(model: ResNet, prepare: Prepare, options: Classify) -> Loss:
    """Returns the loss of a part of a batch, see `loss_of_classes`. `prepare` gives `image`, normalised."""
    return loss_of_classes(model, prepare, lambda seen: (seen["image"],), of_logits(options))


def of_logits(options: Classify) -> OfLogits:
    """The loss that `options.loss` names, by logits and targets."""
    if options.loss == "cross_entropy":
        return partial(cross_entropy, label_smoothing=options.label_smoothing)
    return partial(
        binary_cross_entropy,
        label_smoothing=options.label_smoothing,
        threshold=options.target_threshold,
        sum_classes=options.sum_classes,
    )
