"""Forward passes of both sides, compared module by module while PyTorch runs."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, PyTree

from resnet_jax.models.blueprint import draw
from resnet_jax.models.headed import resnet_in
from resnet_jax.parity.problem import by_name
from resnet_jax.parity.report import Row, Section, compare_arrays
from resnet_jax.parity.tolerances import Tolerances
from resnet_jax.weights import family_of, layout_of
from resnet_jax.weights.names import torch_module

Trace = dict[str, tuple[np.ndarray, np.ndarray]]  # torch's module name: (input, output)

# torchvision's and timm's names of steps that have no module of their own here.
_STEM, _MAX_POOL, _POOL = ("relu", "act1", "stem"), "maxpool", ("avgpool", "global_pool")
_LOGITS = ("fc", "out", "aux")


def trace(model: Any, variables: PyTree[Array], images: Float[np.ndarray, "N *S C"]) -> Trace:
    """Input and output of every submodule of `model` in evaluation mode, by PyTorch's module names."""
    layout, family = layout_of(model), family_of(model)
    sizes = resnet_in(model).stage_sizes
    after_stem = draw(resnet_in(model)).stem.norm.replace("_", ".")
    roots = family.roots if family.rooted else ()
    root = next((f"{root}." for root in roots if root in variables["params"]), "")

    @jax.jit
    def run(variables: PyTree[Array], images: Array) -> dict[str, tuple[Array, Array]]:
        seen: dict[str, tuple[Array, Array]] = {}

        def record(call: Any, args: tuple, kwargs: dict, context: Any) -> Any:
            out = call(*args, **kwargs)
            if context.method_name == "__call__" and context.module.path and isinstance(out, Array):
                seen[torch_module(context.module.path, layout, family)] = (args[0], out)
            return out

        with nn.intercept_methods(record):
            stages = model.apply(variables, images, train=False, features=True)
        for name in _STEM:
            seen[root + name] = (seen[root + after_stem][1], stages["stem"])
        first_block = seen[f"{root}layer1.0"][0]
        seen[root + _MAX_POOL] = (stages["stem"], first_block)
        for i in range(1, len(sizes) + 1):
            seen[f"{root}layer{i}"] = (seen[f"{root}layer{i}.0"][0], stages[f"stage{i}"])
        for name in _POOL:
            seen[root + name] = (stages[f"stage{len(sizes)}"], stages["pooled"])
        return seen | {name: (images, stages[name]) for name in ("out", "aux") if name in stages}

    variables = {name: variables[name] for name in ("params", "batch_stats")}
    return {name: (np.asarray(x), np.asarray(y)) for name, (x, y) in run(variables, images).items()}


def compare_forward(
    ours: Trace, module: Any, images: Float[np.ndarray, "N *S C"], tolerances: Tolerances
) -> tuple[Section, str | None]:
    """Runs `module` in evaluation mode and compares the output of every submodule with `ours`.

    Returns:
      The rows in the order of computation, and where the two sides begin to differ (None: nowhere).
    """
    import torch

    rows: list[Row] = []
    found: list[str] = []
    last_ok = ["the images"]

    def compare(name: str, arguments: tuple, output: Any) -> None:
        if name not in ours or any(row.name == name for row in rows):
            return
        tolerance = tolerances.logits if name in _LOGITS else tolerances.forward
        row = compare_arrays(name, to_nchw(ours[name][1]), _squeeze(output, ours[name][1]), tolerance)
        rows.append(row)
        if row.ok:
            last_ok[0] = name
        elif not found:
            inputs = compare_arrays(name, to_nchw(ours[name][0]), _squeeze(arguments[0], ours[name][0]), tolerance)
            found.append(_say(row, inputs, last_ok[0]))

    handles = [
        part.register_forward_hook(lambda _, arguments, output, name=name: compare(name, arguments, output))
        for name, part in module.named_modules()
        if name
    ]
    try:
        with torch.no_grad():
            outputs = by_name(module.eval()(to_torch(images)))
    finally:
        for handle in handles:
            handle.remove()
    for name, output in outputs.items():
        compare(name, (to_torch(images),), output)
    last = lambda name: name.rpartition(".")[2]
    wanted = {*_STEM, _MAX_POOL, *_POOL, *_LOGITS, "classifier", "aux_classifier", "decoder"}
    shown = {row.name for row in rows if last(row.name).startswith("layer") or last(row.name) in wanted}
    return Section(f"forward, {_size(images)}", rows, shown), found[0] if found else None


def compare_argmax(
    model: Any, variables: PyTree[Array], module: Any, batches: Sequence[Float[np.ndarray, "N *S C"]]
) -> Section:
    """Whether both sides name the same class for every image, or for every pixel. The relative error is the fraction
    where they do not."""
    import torch

    apply = jax.jit(lambda images: by_name(model.apply(variables, images, train=False))["out"])
    module.eval()
    ours, theirs = [], []
    for images in batches:
        ours.append(np.argmax(apply(images), axis=-1))
        with torch.no_grad():
            theirs.append(by_name(module(to_torch(images)))["out"].argmax(1).numpy())
    a, b = np.concatenate(ours), np.concatenate(theirs)
    wrong = int(np.sum(a != b))
    row = Row("argmax", a.shape, b.shape, float(wrong > 0), wrong / a.size, 1.0, 0.0)
    return Section(f"argmax, {len(a)} images of {_size(batches[0])}", [row], {row.name})


def to_nchw(array: np.ndarray) -> np.ndarray:
    """(N, H, W, C) -> (N, C, H, W), (N, T, H, W, C) -> (N, C, T, H, W); other ranks as they are."""
    return np.moveaxis(array, -1, 1) if array.ndim in (4, 5) else array


def to_torch(images: Float[np.ndarray, "N *S C"]) -> Any:
    """(N, H, W, C) -> a contiguous (N, C, H, W) tensor, and likewise of clips."""
    import torch

    return torch.from_numpy(np.array(to_nchw(np.asarray(images)), order="C"))


def _size(images: Float[np.ndarray, "N *S C"]) -> str:
    *frames, height, width = images.shape[1:-1]
    pixels = f"{height} px" if height == width else f"{height} x {width} px"
    return f"{frames[0]} frames of {pixels}" if frames else pixels


def _squeeze(tensor: Any, like: np.ndarray) -> np.ndarray:
    """Drops the last axes of PyTorch's pool, which keeps (N, C, 1, 1) where ours gives (N, C)."""
    array = tensor.detach().numpy()
    return (
        array.reshape(array.shape[:2]) if like.ndim == 2 and array.ndim > 2 and array[0, 0].size == 1 else array.copy()
    )


def _say(row: Row, inputs: Row, before: str) -> str:
    if row.ours != row.theirs:
        what = f"ours puts out {row.ours}, theirs {row.theirs}"
    else:
        what = f"relative error {row.relative:.1e} > {row.tolerance:.0e}"
    if inputs.ok:
        return f"first difference in {row.name}: {what}, though its input agrees"
    return f"first difference between {before} and {row.name}: {what}, and its input differs already"
