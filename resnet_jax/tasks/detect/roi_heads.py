"""Which proposals a step learns from, and the losses of their classes, boxes and masks:
`torchvision.models.detection.roi_heads.RoIHeads`."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from resnet_jax.models.convolution import inside_a_loop
from resnet_jax.tasks.detect.boxes import encode, iou
from resnet_jax.tasks.detect.losses import Objects, Sums, binary_cross_entropy, smooth_l1
from resnet_jax.tasks.detect.matching import NOTHING, match, sample
from resnet_jax.tasks.detect.rpn import BETA

AT_ONCE = 16
"""Proposals, at most, whose masks are computed at the same time: the largest number that divides an image's."""


class Rois(NamedTuple):
    """The R proposals of each of N images that a step learns from. Those that are to find an object come first.

    Where there are fewer, the last rows repeat others: norms that take statistics of all rows then see few values that
    are not there. These rows count nowhere.

    Attributes:
      boxes: on the canvas, in pixels.
      labels: the class of the object that each is to find; 0 = none.
      objects: its place among the objects of the image.
      real: whether a row counts.
    """

    boxes: Float[Array, "N R 4"]
    labels: Int[Array, "N R"]
    objects: Int[Array, "N R"]
    real: Bool[Array, "N R"]


def draw_rois(
    model: Any,
    proposals: Float[Array, "N P 4"],
    real: Bool[Array, "N P"],
    objects: Objects,
    keys: Key[Array, " N"],
) -> Rois:
    """Draws from the proposals and the boxes of the objects. No gradient passes through them.

    Args:
      model: says which are to find an object, and how many are drawn.
      real: whether a proposal is one, and not padding.
      keys: of each image.
    """
    candidates = jax.lax.stop_gradient(jnp.concatenate([proposals, objects.boxes.astype(proposals.dtype)], axis=1))
    both = jnp.concatenate([real, objects.real], axis=1)
    count = min(model.box_batch_size_per_image, candidates.shape[1])

    def of_image(boxes: Array, real: Array, objects: Objects, key: Array) -> Rois:
        overlaps = iou(objects.boxes.astype(boxes.dtype), boxes)
        found = match(overlaps, objects.real, model.box_bg_iou_thresh, model.box_fg_iou_thresh)
        share = model.box_positive_fraction
        chosen = sample(key, real & (found >= 0), real & (found == NOTHING), model.box_batch_size_per_image, share)
        positive, negative = chosen
        order = jnp.argsort(jnp.where(positive, 0, jnp.where(negative, 1, 2)), stable=True)[:count]
        drawn = jnp.sum(positive | negative)
        rows = order[jnp.arange(count) % jnp.maximum(drawn, 1)]
        own = jnp.maximum(found[rows], 0)
        labels = jnp.where(positive[rows], objects.classes[own], 0)
        return Rois(boxes[rows], labels, own, jnp.arange(count) < drawn)

    return jax.vmap(of_image)(candidates, both, objects, keys)


def box_losses(
    model: Any, logits: Float[Array, "N*R K"], deltas: Float[Array, "N*R K 4"], rois: Rois, objects: Objects
) -> Sums:
    """`loss_classifier` and `loss_box_reg` of each image, to be divided by the proposals that were drawn."""
    images, rows = rois.labels.shape
    logits, deltas = logits.reshape(images, rows, -1), deltas.reshape(images, rows, -1, 4)
    own = jnp.take_along_axis(logits, rois.labels[..., None], axis=2)[..., 0]
    surprise = jax.nn.logsumexp(logits, axis=2) - own
    said = jnp.take_along_axis(deltas, rois.labels[..., None, None], axis=2)[:, :, 0]
    positive = (rois.real & (rois.labels > 0))[..., None]
    references = jnp.where(positive, rois.boxes, jnp.asarray([0, 0, 1, 1], rois.boxes.dtype).reshape(1, 1, 4))
    boxes = jnp.take_along_axis(objects.boxes, rois.objects[..., None], axis=1)
    wanted = encode(jnp.where(positive, boxes, references).astype(said.dtype), references, model.bbox_reg_weights)
    apart = jnp.sum(jnp.where(positive, smooth_l1(said, wanted, BETA), 0), axis=(1, 2))
    count = jnp.sum(rois.real, axis=1).astype(logits.dtype)
    return {
        "loss_classifier": (jnp.sum(jnp.where(rois.real, surprise, 0), axis=1), count),
        "loss_box_reg": (apart, count),
    }


def rois_with_masks(model: Any, rois: Rois) -> Rois:
    """The first rows, among which are all that are to find an object. Where there are fewer, they repeat those, or the
    first row if there are none.

    torchvision's mask head sees no repeated rows. So where its layers have norms (`maskrcnn_..._v2`), their statistics
    are torchvision's only if no row is repeated.
    """
    most = max(1, min(int(model.box_batch_size_per_image * model.box_positive_fraction), rois.labels.shape[1]))
    number = jnp.sum(rois.real & (rois.labels > 0), axis=1, keepdims=True)
    place = jnp.arange(most)[None]
    rows = place % jnp.maximum(number, 1)
    boxes = jnp.take_along_axis(rois.boxes, rows[..., None], axis=1)
    labels, objects = (jnp.take_along_axis(x, rows, axis=1) for x in (rois.labels, rois.objects))
    return Rois(boxes, labels, objects, place < number)


def mask_losses(
    head: Callable[[Array, Array], Array],
    cut: Callable[..., Array],
    grids: Float[Array, "N*R G G C"],
    windows: Sequence[Array],
    rois: Rois,
) -> Sums:
    """`loss_mask` of each image, to be divided by the proposals that are to find an object. Each mask is judged alone.

    What is computed for a proposal is large. So a few proposals are computed after the other, and once more for the
    gradient. Where none of them counts, nothing is computed: torchvision looks at no others either.

    Args:
      head: from grids and labels of a few proposals to the logits of their masks.
      cut: from their rows of `windows` to the masks that they are to find.
      grids: of the proposals, which the head sees.
      windows: arrays with a row for each proposal.
    """
    images, rows = rois.labels.shape
    few, dtype = max(number for number in range(1, AT_ONCE + 1) if rows % number == 0), rois.boxes.dtype

    def of_some(grids: Array, windows: Sequence[Array], labels: Array, real: Array) -> Float[Array, " few"]:
        with inside_a_loop():
            said = head(grids, labels).astype(dtype)
        each = binary_cross_entropy(said, cut(*windows).astype(dtype))
        return jnp.where(real, jnp.mean(each, axis=(1, 2)), 0)

    @jax.checkpoint
    def if_real(some: tuple[Any, ...]) -> Float[Array, " few"]:
        return lax.cond(jnp.any(some[-1]), of_some, lambda *_: jnp.zeros(few, dtype), *some)

    of_each = (grids, windows, rois.labels.reshape(-1), rois.real.reshape(-1))
    each = lax.map(if_real, jax.tree.map(lambda x: x.reshape(-1, few, *x.shape[1:]), of_each))
    loss = jnp.sum(each.reshape(images, rows), axis=1)
    return {"loss_mask": (loss, jnp.sum(rois.real, axis=1).astype(loss.dtype))}
