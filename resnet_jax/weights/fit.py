"""Whether the arrays of a file are those of a network, and what to say if not."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from resnet_jax.errors import WeightsError
from resnet_jax.weights.families import RESNET, Family
from resnet_jax.weights.names import COUNTERS, where_networks_lie
from resnet_jax.weights.narrowing import first_few
from resnet_jax.weights.recognize import (
    Shape,
    candidates,
    head_and_channels,
    is_auxiliary,
    weights_of,
    without_head,
    without_sizes,
)


def check_fit(state_dict: Mapping[str, np.ndarray], expected: Mapping[str, Shape], family: Family = RESNET) -> None:
    """Refuses arrays that are not exactly those of a network.

    Args:
      state_dict: the arrays of a file.
      expected: the keys and shapes of the network, in the layout of the file.

    Raises:
      WeightsError: names the keys that are missing, unexpected, of the wrong shape or type, or not finite, and what to
        do.
    """
    missing = [key for key in expected if key not in state_dict]
    unexpected = [key for key in state_dict if key not in expected]
    common = {key: state_dict[key] for key in expected if key in state_dict}
    misshaped = [
        f"{key} {array.shape} != {expected[key]}" for key, array in common.items() if array.shape != expected[key]
    ]
    mistyped = [
        f"{key} is {array.dtype}"
        for key, array in common.items()
        if not key.endswith("." + COUNTERS) and not jnp.issubdtype(array.dtype, jnp.floating)
    ]
    if problems := [
        f"{len(keys)} {what}: {first_few(keys)}"
        for what, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of wrong shape (file != network)", misshaped),
            ("not floating point", mistyped),
        )
        if keys
    ]:
        raise WeightsError(
            f"the weights do not fit the network: {_remedy(state_dict, expected, family)}\n  " + "\n  ".join(problems)
        )
    if bad := [
        f"{key} ({np.sum(~np.isfinite(array))} of {array.size})"
        for key, array in common.items()
        if not key.endswith("." + COUNTERS) and not np.isfinite(array).all()
    ]:
        raise WeightsError(
            f"the weights hold NaN or infinite numbers in {len(bad)} arrays; training may have diverged, "
            f"use an earlier checkpoint: {first_few(bad)}"
        )


def refuse_foreign(
    state_dict: Mapping[str, np.ndarray], model: nn.Module, layout: str, family: Family = RESNET
) -> None:
    """Raises a WeightsError if files of this layout are of other networks than `model`, whatever the shapes say."""
    if layout not in family.foreign(model):
        return
    names = candidates(state_dict)
    looks = f"This file looks like {' or '.join(names)}; ask for that network" if names else "Choose another shortcut"
    raise WeightsError(
        f"the names in the file are those of the layout {layout!r}, and no network with shortcut = "
        f"{getattr(model, 'shortcut', None)!r} is written so: it would compute something else with these arrays. "
        f"{looks}, or choose another file"
    )


def _remedy(state_dict: Mapping[str, np.ndarray], expected: Mapping[str, Shape], family: Family) -> str:
    classes, channels = head_and_channels(state_dict, family)
    heads, stems = {*weights_of(family.head, family)}, {*weights_of(family.stem, family)}
    found = {key: array.shape for key, array in state_dict.items()}
    if classes and not heads & {*expected} and without_head(found, family) == without_head(expected, family):
        return (
            f"the file has a head of {classes} classes, and the network none. Take it as it is, without num_classes; "
            'model.apply(..., features=True)["pooled"] gives what lies before it (docs/weights.md, "Another head")'
        )
    if found.keys() != expected.keys() and _main(found) == _main(expected):
        if any(map(is_auxiliary, found)):
            return (
                "the file has an auxiliary head, and the network none, as aux_loss=False says. Leave aux_loss out: the "
                'network then gives "aux" beside "out", and a jitted function that does not use it does not compute it'
            )
        return "the file has no auxiliary head, and the network has one; pass aux_loss=False"
    if found != dict(expected) and without_sizes(found, family) == without_sizes(expected, family):
        wrong = {key for key in expected if found[key] != expected[key]}
        options = [f"num_classes={classes}"] if wrong & heads else []
        options += [f"channels={channels}"] if wrong & stems else []
        other = ' (for a head of another size see docs/weights.md, "Another head")' if wrong & heads else ""
        return f"to take them as they are pass {' and '.join(options)}{other}"
    names = candidates(state_dict)
    asked = candidates({key: np.broadcast_to(np.float32(0), shape) for key, shape in expected.items()})
    if {*names} & {*asked}:
        return "it is this network but for what follows; the file is damaged, or was changed after it was saved"
    if names:
        if len(names) > 1:
            return (
                f"this file looks like {' or '.join(names)}, whose arrays have the same names and shapes; say which it "
                f"is, load_pretrained({names[0]!r}, ...) or --model {names[0]}, or choose another file"
            )
        return f"this file looks like {names[0]}; ask for that network, or choose another file"
    return where_networks_lie(state_dict) or "they are of no network known here; see list_models()"


def _main(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Without the auxiliary head of a network for segmentation."""
    return {key: shape for key, shape in shapes.items() if not is_auxiliary(key)}
