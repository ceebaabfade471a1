"""How the arrays that a run starts from are brought under the names and shapes of its network."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resnet_jax.config import Config
from resnet_jax.errors import ConfigError
from resnet_jax.weights import adapt_input_conv, class_names
from resnet_jax.weights.channels import input_conv
from resnet_jax.weights.families import RESNET, ROOTS
from resnet_jax.weights.narrowing import first_few

SHOWN = 10  # arrays that do not fit, in an error


def below_the_head(
    like: Mapping[str, Any], found: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], tuple[str, ...], tuple[str, ...]]:
    """Where the weights are those of a network for classification, and the network has one as its backbone: the arrays
    under the backbone's name, the names of the other arrays of the network, which are made new, and what to say."""
    root = next((root for root in ROOTS if _has(like, root)), "")
    if not root or any(_has(found, other) for other in ROOTS):
        return dict(found), (), ()
    head = tuple(f"params/{module}/" for module in RESNET.head)
    lifted = {name.replace("/", f"/{root}/", 1): x for name, x in found.items() if not name.startswith(head)}
    new = tuple(name for name in like if name.split("/")[1] != root)
    left = ", ".join(name for name in found if name.startswith(head))
    parts = " and ".join(dict.fromkeys(name.split("/")[1] for name in new))
    remark = f"the weights are of a network for classification, whose backbone is taken; {parts} are made new"
    return lifted, new, (f"{remark}{f', and {left} are left out' * bool(left)}",)


def with_channels_of(
    like: Mapping[str, Any], found: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The arrays with a first convolution for the channels that the network sees, and what to say of it."""
    stem = input_conv(like)
    if stem not in found or like[stem].shape == found[stem].shape:
        return dict(found), ()
    before, after = found[stem].shape, like[stem].shape
    if (*before[:-2], before[-1]) != (*after[:-2], after[-1]):
        return dict(found), ()  # another stem
    how = "their sum" if after[-2] == 1 else f"repeated, times {before[-2]}/{after[-2]}"
    remark = f"{stem} is made from that of {before[-2]} channels for {after[-2]}, as timm does ({how})"
    return {**found, stem: adapt_input_conv(found[stem], after[-2])}, (remark,)


def new_head(
    wanted: str,
    all_of_it: tuple[str, ...],
    like: Mapping[str, Any],
    found: Mapping[str, np.ndarray],
    theirs: Sequence[str] | None,
    ours: Sequence[str],
) -> tuple[tuple[str, ...], str]:
    """The arrays of the last layer that are made new, and what to say of it.

    Args:
      wanted: `start.head`.
      all_of_it: the names of these arrays.
      theirs: the names of the classes of the weights; None = nothing says them.
      ours: those of the data set.
    """
    misfits = tuple(name for name in all_of_it if name not in found or found[name].shape != like[name].shape)
    listed = ", ".join(misfits or all_of_it)
    if misfits:
        return all_of_it if wanted == "new" else misfits, f"{listed} do not fit, and are made new"
    if not all_of_it or wanted == "fitting":
        return (), ""
    if wanted == "new":
        return all_of_it, f"{listed} are made new, as start.head = 'new' says"
    if theirs is None or (tuple(theirs) == tuple(ours) and all(name.isdecimal() for name in ours)):
        return (), (
            f"{listed} are kept: they fit, and nothing names the classes of the weights. Where they are other classes, "
            "add --start.head new"
        )
    if tuple(theirs) == tuple(ours) or is_imagenet(theirs, ours):
        return (), ""
    return all_of_it, (
        f"{listed} are made new, since their classes ({first_few(theirs, 3)}) are not those of the data set "
        f"({first_few(ours, 3)}). --start.head fitting keeps them"
    )


def check_fit(config: Config, of: str, like: Mapping[str, Any], found: Mapping[str, np.ndarray]) -> None:
    lines = [f"{name}: not in the weights" for name in like if name not in found]
    lines += [f"{name}: only in the weights" for name in found if name not in like]
    lines += [
        f"{name}: {found[name].shape} (weights) != {leaf.shape} (network)"
        for name, leaf in like.items()
        if name in found and found[name].shape != leaf.shape
    ]
    if lines:
        shown = lines[:SHOWN] + [f"and {len(lines) - SHOWN} more"] * (len(lines) > SHOWN)
        raise ConfigError(
            f"start.weights = {config.start.weights!r}{f', of {of},' * bool(of)} does not fit {config.model.name}; "
            f"{len(lines)} arrays differ:"
            + "".join(f"\n  {line}" for line in shown)
            + "\nSet model.name to that of the weights, or name other weights."
        )


def is_imagenet(theirs: Sequence[str], ours: Sequence[str]) -> bool:
    """Whether both are ImageNet's classes, and the data set calls them by their WordNet numbers, as folders do."""
    numbers = all(re.fullmatch(r"n\d{8}", name) for name in ours)
    return tuple(theirs) == class_names() and len(ours) == len(theirs) and numbers and list(ours) == sorted(ours)


def _has(arrays: Mapping[str, Any], module: str) -> bool:
    return any(name.startswith(f"params/{module}/") for name in arrays)
