"""Whether the arrays of a file are those of a network, which networks they may be of, and what to say if of none."""

import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from resnet_jax.errors import ModelError, WeightsError
from resnet_jax.models import create_model, list_models, variable_shapes
from resnet_jax.models.blueprint import draw
from resnet_jax.models.embed.table import IRESNETS, PREFIX
from resnet_jax.models.segment.table import HEADS
from resnet_jax.weights.families import EMBED, FRAMES, RESNET, Family, family_in, family_of
from resnet_jax.weights.names import (
    COUNTERS,
    Path,
    keys_of,
    layout_of,
    stage_sizes,
    to_torch_axes,
    torch_key,
    where_networks_lie,
)
from resnet_jax.weights.narrowing import first_few

Shape = tuple[int, ...]


def leaves_of(model: nn.Module, channels: int = 3) -> dict[Path, Shape]:
    """Every leaf of the model's variables, and of the counters, with the shape that PyTorch gives it."""
    shapes = variable_shapes(model, channels=channels)
    paths = {}
    for path, leaf in flatten_dict(shapes).items():
        paths[path] = to_torch_axes(np.broadcast_to(np.float32(0), leaf.shape), path).shape
        if path[0] == "batch_stats" and path[-1] == "mean":
            paths[COUNTERS, *path[1:-1], "count"] = ()
    return paths


def identify(state_dict: Mapping[str, np.ndarray]) -> str | None:
    """The name of the network whose keys and shapes are these, whatever its head and its image channels.

    Of several that differ in what has no arrays (such as `resnet50` and `resnet50_v1`, whose strides lie elsewhere) it
    is the first of `list_models()`; `candidates` gives all.

    Raises:
      WeightsError: the keys are those of networks that write the same arrays under different names.
    """
    names = candidates(state_dict)
    if len({layout_of(create_model(name)) for name in names}) > 1:
        raise WeightsError(
            f"the weights may be of {' or '.join(names)}, whose keys and shapes are the same here; say which it is: "
            "--model NAME, or load_pretrained(NAME, ...)"
        )
    return names[0] if names else None


def candidates(state_dict: Mapping[str, np.ndarray]) -> list[str]:
    """The names of all networks that keys and shapes may be those of, in the order of `list_models()`. Any of its
    networks may be the backbone of one for segmentation.

    timm's numbers of the shortcut's parts tell D nets from C nets; written with torchvision's, both are alike.
    """
    family = family_in(state_dict)
    shapes = {key: array.shape for key, array in state_dict.items() if not key.endswith("." + COUNTERS)}
    found = _fixed(shapes, family)
    if not family.roots:
        return _classifiers(found, family)
    if family is FRAMES:  # arrays do not tell the heads of attention, nor which head over time has none
        return []
    if family is EMBED:
        body = {key: shape for key, shape in found.items() if key.split(".")[0] not in ("fc", "features")}
        sizes = stage_sizes(found)
        names = [name for name in IRESNETS if create_model(name).trunk.stage_sizes == sizes]
        names += [f"{PREFIX}{name}" for name in _classifiers(body, headless=True)]
        return [name for name in names if _is_it(name, found, state_dict)]
    bodies = [
        {key.removeprefix(f"{root}."): shape for key, shape in found.items() if key.startswith(f"{root}.")}
        for root in family.roots
    ]
    names = [f"{head}_{name}" for body in bodies for head in HEADS for name in _classifiers(body, headless=True)]
    return [name for name in names if _is_it(name, found, state_dict)]


def _classifiers(found: Mapping[str, Shape], family: Family = RESNET, *, headless: bool = False) -> list[str]:
    """The networks for classification that have these keys and shapes; with `headless`, apart from their heads."""
    sizes, names = stage_sizes(found), []
    for name in list_models(task="classify") + list_models(task="clips"):
        model = create_model(name)
        layouts = family.layouts.keys() - family.foreign(model)
        if (family_of(model), model.stage_sizes) == (family, sizes) and any(
            _keys(_leaves_in(name, short=True), layout, family, headless=headless).items() <= found.items()
            and _keys(_leaves_in(name), layout, family, headless=headless) == found
            for layout in layouts
        ):
            names.append(name)
    return names


def _is_it(name: str, found: Mapping[str, Shape], state_dict: Mapping[str, np.ndarray]) -> bool:
    try:
        model = create_model(name, **options_in(name, state_dict))
    except ModelError:  # a backbone that does not go with this head
        return False
    family = family_of(model)
    leaves = leaves_of(model)
    return any(_keys(leaves, layout, family) == found for layout in family.layouts)


@functools.cache
def _leaves_in(name: str, *, short: bool = False) -> dict[Path, Shape]:
    """The leaves of one of `list_models()`. With `short` those of the first block of each stage alone, which are soon
    traced and tell most networks apart."""
    model = create_model(name)
    return leaves_of(model.clone(stage_sizes=(1,) * len(model.stage_sizes)) if short else model)


def _keys(
    leaves: Mapping[Path, Shape], layout: str, family: Family = RESNET, *, headless: bool = False
) -> dict[str, Shape]:
    keys = {torch_key(path, layout, family): shape for path, shape in leaves.items() if path[0] != COUNTERS}
    return _fixed(_headless(keys, family) if headless else keys, family)


def options_in(name: str, state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The options of `create_model(name)` that the arrays tell: classes, and whether there is an auxiliary head; or the
    size of embeddings and of the images."""
    model = create_model(name)
    classes, _ = head_and_channels(state_dict, family_of(model))
    if family_of(model) is EMBED:
        return _embedding_options(model, classes, state_dict)
    options: dict[str, Any] = {"num_classes": classes} if classes else {}
    if hasattr(model, "aux_loss"):
        options["aux_loss"] = any(map(_is_auxiliary, state_dict))
    return options


def _embedding_options(model: Any, size: int | None, state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Square images, where the arrays do not say otherwise."""
    options: dict[str, Any] = {"embedding_size": size} if size else {}
    linear, norm = state_dict.get("fc.weight"), state_dict.get("bn2.weight")
    if model.head == "flat" and linear is not None and norm is not None and linear.ndim == 2:
        side = round((linear.shape[1] / max(len(norm), 1)) ** 0.5) * draw(model.trunk).stride
        if side != model.sides[0]:
            options["sides"] = (side, side)
    return options


def head_and_channels(
    state_dict: Mapping[str, np.ndarray], family: Family | None = None
) -> tuple[int | None, int | None]:
    """(classes of the head, channels of the images) that the arrays were made for; None where they do not tell.

    Args:
      family: of the network; None = as the keys tell.
    """
    family = family or family_in(state_dict)
    sizes: list[int | None] = []
    for keys, axis in ((_weights(family.head, family), 0), (_weights(family.stem, family), 1)):
        array = next((state_dict[key] for key in keys if key in state_dict), None)
        sizes.append(array.shape[axis] if array is not None and array.ndim > axis else None)
    return sizes[0], sizes[1]


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
    heads, stems = {*_weights(family.head, family)}, {*_weights(family.stem, family)}
    found = {key: array.shape for key, array in state_dict.items()}
    if classes and not heads & {*expected} and _headless(found, family) == _headless(expected, family):
        return (
            f"the file has a head of {classes} classes, and the network none. Take it as it is, without num_classes; "
            'model.apply(..., features=True)["pooled"] gives what lies before it (docs/weights.md, "Another head")'
        )
    if found.keys() != expected.keys() and _main(found) == _main(expected):
        if any(map(_is_auxiliary, found)):
            return (
                "the file has an auxiliary head, and the network none, as aux_loss=False says. Leave aux_loss out: the "
                'network then gives "aux" beside "out", and a jitted function that does not use it does not compute it'
            )
        return "the file has no auxiliary head, and the network has one; pass aux_loss=False"
    if found != dict(expected) and _fixed(found, family) == _fixed(expected, family):
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


def _is_auxiliary(key: str) -> bool:
    return key.startswith("aux_classifier.")


def _main(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Without the auxiliary head of a network for segmentation."""
    return {key: shape for key, shape in shapes.items() if not _is_auxiliary(key)}


def _weights(modules: tuple[str, ...], family: Family) -> list[str]:
    """The keys of the weights of any of these modules, in all layouts."""
    return [key for module in modules for key in keys_of(module, "weight", family)]


def _biases(family: Family) -> list[str]:
    return [key for module in family.head for key in keys_of(module, "bias", family)]


def _fixed(shapes: Mapping[str, Shape], family: Family) -> dict[str, Shape]:
    """Without what the number of classes and of image channels decide."""
    fixed = dict(shapes)
    for keys, axis in (
        (_weights(family.head, family), 0),
        (_biases(family), 0),
        (_weights(family.stem, family), 1),
    ):
        fixed |= {key: shapes[key][:axis] + shapes[key][axis + 1 :] for key in keys if key in shapes}
    return fixed


def _headless(shapes: Mapping[str, Shape], family: Family) -> dict[str, Shape]:
    head = (*_weights(family.head, family), *_biases(family))
    return {key: shape for key, shape in shapes.items() if key not in head}
