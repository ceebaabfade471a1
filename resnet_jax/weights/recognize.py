"""Which networks the arrays of a file may be of, and the options that they tell."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from resnet_jax.errors import ModelError, WeightsError
from resnet_jax.models import create_model, list_models, variable_shapes
from resnet_jax.models.blueprint import draw
from resnet_jax.models.detect.table import KINDS
from resnet_jax.models.embed.table import IRESNETS, PREFIX
from resnet_jax.models.segment.table import HEADS
from resnet_jax.weights.families import DETECT, EMBED, FRAMES, RESNET, Family, family_in, family_of, named
from resnet_jax.weights.names import (
    COUNTERS,
    Path,
    keys_of,
    layout_of,
    stage_sizes,
    to_torch_axes,
    torch_key,
    with_names_of_today,
)

Shape = tuple[int, ...]
_BODY = named(DETECT, "backbone.")


@functools.lru_cache(maxsize=64)
def leaves_of(model: nn.Module, channels: int = 3) -> Mapping[Path, Shape]:
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
    found = without_sizes(shapes, family)
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
    if family is DETECT:
        body = {key.removeprefix(_BODY): shape for key, shape in found.items() if key.startswith(_BODY)}
        backbones = _classifiers(body, headless=True)
        kinds = [[f"{begin}_{backbone}_{end}" for backbone in backbones] for begin, end in KINDS]
        return [name for names in kinds for name in _with_head(names, found, state_dict)]
    bodies = [
        {key.removeprefix(f"{root}."): shape for key, shape in found.items() if key.startswith(f"{root}.")}
        for root in family.roots
    ]
    kinds = [[f"{head}_{name}" for name in _classifiers(body, headless=True)] for body in bodies for head in HEADS]
    return [name for names in kinds for name in _with_head(names, found, state_dict)]


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


def _with_head(names: list[str], found: Mapping[str, Shape], state_dict: Mapping[str, np.ndarray]) -> list[str]:
    """Those of networks with one head, on backbones that have the same arrays: so one of them tells it for all."""
    names = [name for name in names if _model_of(name, state_dict) is not None]
    return names if names and _is_it(names[0], found, state_dict) else []


def _model_of(name: str, state_dict: Mapping[str, np.ndarray]) -> nn.Module | None:
    """None for a backbone that does not go with this head."""
    try:
        return create_model(name, **options_in(name, state_dict))
    except ModelError:
        return None


def _is_it(name: str, found: Mapping[str, Shape], state_dict: Mapping[str, np.ndarray]) -> bool:
    model = _model_of(name, state_dict)
    if model is None:
        return False
    family = family_of(model)
    leaves = leaves_of(model)
    expected = (_keys(leaves, layout, family) for layout in family.layouts)
    return any(with_names_of_today(found, keys, family) == keys for keys in expected)


@functools.cache
def _leaves_in(name: str, *, short: bool = False) -> Mapping[Path, Shape]:
    """The leaves of one of `list_models()`. With `short` those of the first block of each stage alone, which are soon
    traced and tell most networks apart."""
    model = create_model(name)
    return leaves_of(model.clone(stage_sizes=(1,) * len(model.stage_sizes)) if short else model)


def _keys(
    leaves: Mapping[Path, Shape], layout: str, family: Family = RESNET, *, headless: bool = False
) -> dict[str, Shape]:
    keys = {torch_key(path, layout, family): shape for path, shape in leaves.items() if path[0] != COUNTERS}
    return without_sizes(without_head(keys, family) if headless else keys, family)


def options_in(name: str, state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The options of `create_model(name)` that the arrays tell: classes, and whether there is an auxiliary head; or the
    size of embeddings and of the images."""
    model = create_model(name)
    classes, _ = head_and_channels(state_dict, family_of(model))
    if family_of(model) is EMBED:
        return _embedding_options(model, classes, state_dict)
    options: dict[str, Any] = {"num_classes": classes} if classes else {}
    if hasattr(model, "aux_loss"):
        options["aux_loss"] = any(map(is_auxiliary, state_dict))
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
    for keys, axis in ((weights_of(family.head, family), 0), (weights_of(family.stem, family), 1)):
        array = next((state_dict[key] for key in keys if key in state_dict), None)
        sizes.append(array.shape[axis] if array is not None and array.ndim > axis else None)
    for boxes in (state_dict[f"{module}.weight"] for module in family.boxes if f"{module}.weight" in state_dict):
        if sizes[0] and boxes.ndim and len(boxes) >= 4:
            sizes[0] //= len(boxes) // 4
    return sizes[0], sizes[1]


def is_auxiliary(key: str) -> bool:
    return key.startswith("aux_classifier.")


def weights_of(modules: tuple[str, ...], family: Family) -> list[str]:
    """The keys of the weights of any of these modules, in all layouts."""
    return [key for module in modules for key in keys_of(module, "weight", family)]


def _biases(family: Family) -> list[str]:
    return [key for module in family.head for key in keys_of(module, "bias", family)]


def without_sizes(shapes: Mapping[str, Shape], family: Family) -> dict[str, Shape]:
    """Without what the number of classes and of image channels decide."""
    fixed = dict(shapes)
    for keys, axis in (
        (weights_of(family.head, family), 0),
        (_biases(family), 0),
        (weights_of(family.stem, family), 1),
    ):
        fixed |= {key: shapes[key][:axis] + shapes[key][axis + 1 :] for key in keys if key in shapes}
    return fixed


def without_head(shapes: Mapping[str, Shape], family: Family) -> dict[str, Shape]:
    head = (*weights_of(family.head, family), *_biases(family))
    return {key: shape for key, shape in shapes.items() if key not in head}
