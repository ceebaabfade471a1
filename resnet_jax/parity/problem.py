"""What a network is trained for in a comparison: its targets and its loss, on both sides."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from resnet_jax.config import Classify, Segment
from resnet_jax.models.embed.network import Embedder
from resnet_jax.models.segment.network import Segmenter
from resnet_jax.models.segment.unet import UNet
from resnet_jax.tasks.classify.loss import make_loss as classify_loss
from resnet_jax.tasks.segment.loss import make_loss as segment_loss
from resnet_jax.tasks.segment.losses import IGNORED
from resnet_jax.training.losses import one_hot
from resnet_jax.training.step import Loss

Images: TypeAlias = Float[np.ndarray, "N *S C"]
Targets: TypeAlias = Int[np.ndarray, "N *S"]  # noqa: F821 - a shape, which is no Python


@dataclass(frozen=True)
class Problem:
    """What the images of a batch are to be taken for.

    Attributes:
      leaf: the name of the targets in a batch of ours.
      draw: `(rng, images, number of classes) -> targets`, at random.
      loss: `(model, label smoothing) -> Loss`, the loss that `train.py` has. The images are normalised already.
      torch_loss: `(outputs by name, targets, label smoothing) -> loss`, with nothing of ours.
    """

    leaf: str
    draw: Callable[[np.random.Generator, Images, int], Targets]
    loss: Callable[[Any, float], Loss]
    torch_loss: Callable[[Mapping[str, Any], Any, float], Any]

    def batch(self, images: Images, targets: Targets) -> dict[str, Array]:
        """A batch of ours."""
        return {"image": jax.numpy.asarray(images), self.leaf: jax.numpy.asarray(targets, jax.numpy.int32)}


def problem_of(model: Any) -> Problem:
    """The problem that the network is for."""
    return SEGMENT if isinstance(model, Segmenter | UNet) else CLASSIFY


def outputs_of(model: Any) -> int:
    """The classes of a network. The numbers of an embedding are taken for the logits of classes."""
    return model.embedding_size if isinstance(model, Embedder) else model.num_classes


def without_dropout(model: Any) -> Any:
    """The network, dropping nothing: no two sides draw the same random numbers."""
    return model.clone(dropout=0.0) if isinstance(model, Segmenter | Embedder) else model


def by_name(outputs: Any) -> Mapping[str, Any]:
    """What a network puts out, on either side. Logits that have no name are called `out`."""
    return outputs if isinstance(outputs, Mapping) else {"out": outputs}


def _labels(rng: np.random.Generator, images: Images, classes: int) -> Targets:
    return rng.integers(0, classes, len(images))


def _masks(rng: np.random.Generator, images: Images, classes: int) -> Targets:
    """A class for each pixel, at random. Of each image another share is ignored."""
    shape = images.shape[:3]
    ignored = rng.random(shape) < rng.random((shape[0], 1, 1))
    return np.where(ignored, IGNORED, rng.integers(0, classes, shape))


def _classify_loss(model: Any, label_smoothing: float) -> Loss:
    prepare = lambda key, batch: {**batch, "target": one_hot(batch["label"], outputs_of(model))}
    return classify_loss(model, prepare, Classify(label_smoothing=label_smoothing))


def _segment_loss(model: Any, label_smoothing: float) -> Loss:
    return segment_loss(model, lambda key, batch: batch, Segment())


def _torch_classify_loss(outputs: Mapping[str, Any], targets: Any, label_smoothing: float) -> Any:
    import torch

    return torch.nn.functional.cross_entropy(outputs["out"], targets, label_smoothing=label_smoothing)


def _torch_segment_loss(outputs: Mapping[str, Any], targets: Any, label_smoothing: float) -> Any:
    """torchvision's (`references/segmentation/train.py`, `criterion`)."""
    import torch

    of = partial(torch.nn.functional.cross_entropy, target=targets, ignore_index=255)
    return of(outputs["out"]) + (0.5 * of(outputs["aux"]) if "aux" in outputs else 0)


CLASSIFY = Problem("label", _labels, _classify_loss, _torch_classify_loss)
SEGMENT = Problem("mask", _masks, _segment_loss, _torch_segment_loss)
"""Segmentation has no label smoothing: settings with it train without."""
