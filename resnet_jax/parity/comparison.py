"""Compares one network on both sides: outputs, gradients, running statistics, training."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from resnet_jax.models import create_model, list_models
from resnet_jax.models.embed.table import IRESNETS
from resnet_jax.models.headed import refuse_boxes
from resnet_jax.parity.problem import outputs_of, problem_of, without_dropout
from resnet_jax.parity.reference import make_reference, randomize
from resnet_jax.parity.report import Report, Section
from resnet_jax.parity.settings import names_of
from resnet_jax.parity.tolerances import Tolerances, tolerances_for
from resnet_jax.parity.trace import compare_argmax, compare_forward, to_torch, trace
from resnet_jax.parity.training import compare_gradients, compare_statistics, compare_trajectory
from resnet_jax.weights import from_torchvision, layout_of, options_in, read_state_dict, to_tensors, translate

DType = Literal["float32", "float64", "bfloat16"]
Check = Literal["forward", "gradients", "statistics", "trajectory"]
SIZES, TRAIN_SIZE = ((224, 97), (112, 97)), (65, 97)
"""Of images, in pixels: of most networks, and of an iresnet."""
CLIP_SIZES, CLIP_TRAIN_SIZE, FRAMES = (97,), 49, 7
"""Of clips: their height, and their length."""
CHECKS: tuple[Check, ...] = ("forward", "gradients", "statistics", "trajectory")


def compare(
    name: str,
    *,
    weights: str | Path | None = None,
    dtype: DType = "float32",
    images: Float[np.ndarray, "N *S C"] | None = None,
    image_sizes: Sequence[int] = (),
    train_image_size: int | None = None,
    batch_size: int = 4,
    steps: int = 10,
    optimizers: Sequence[str] = ("all together",),
    checks: Sequence[Check] = CHECKS,
    argmax_images: int = 0,
    seed: int = 0,
) -> Report:
    """Compares our network `name` with torchvision's (or timm's) of that name, with segmentation_models_pytorch's
    U-Net, or with insightface's iresnet. Neither side drops numbers.

    Args:
      weights: a weight file that both sides load, each in its own way; None = random weights, with BatchNorm scales,
        biases and statistics that hide no error.
      dtype: of parameters and arithmetic on both sides; `bfloat16` = only our activations, compared with float32.
      images: normalised images for the forward comparison, instead of noise.
      image_sizes: of the noise for the forward comparison, in pixels; an odd one shows errors of padding. Empty =
        (224, 97), and for an iresnet, whose head fixes the size of the maps, (112, 97). Clips have 7 frames of this
        height and two thirds of its width; empty = (97,).
      train_image_size: of the noise for gradients, statistics and trajectory, in pixels; None = 65, 97 for an
        iresnet, and 49 for clips.
      batch_size: images of noise in every comparison.
      steps: of the trajectory.
      optimizers: names from `OPTIMIZERS` or `settings.SEVERAL`; each setting gives a trajectory.
      checks: what to compare.
      argmax_images: number of further images, of noise of the last size, for which both sides must name the same class.

    Raises:
      WeightsError: PyTorch has no network of that name, or the weights do not fit the network.
      ConfigError: an unknown name of a setting.
      ModelError: the network finds objects: tests compare it (docs/parity.md).
    """
    import torch

    names_of(optimizers)
    clips = name in list_models(task="clips")
    sizes = image_sizes or (CLIP_SIZES if clips else SIZES[name in IRESNETS])
    train_image_size = train_image_size or (CLIP_TRAIN_SIZE if clips else TRAIN_SIZE[name in IRESNETS])
    sides = lambda size: (FRAMES, size, size - size // 3) if clips else (size, size)

    with jax.enable_x64(dtype == "float64"):
        rng = np.random.default_rng(seed)
        float_type = np.float64 if dtype == "float64" else np.float32
        draw = lambda size: rng.normal(size=(batch_size, *sides(size), 3)).astype(float_type)
        torch.manual_seed(seed)
        state_dict = read_state_dict(weights) if weights else None
        model = create_model(
            name,
            **(options_in(name, state_dict) if state_dict else {}),
            param_dtype=jnp.dtype(float_type),
            dtype=jnp.bfloat16 if dtype == "bfloat16" else None,
        )
        refuse_boxes(model, "parity")
        model = without_dropout(model)
        module = make_reference(name, outputs_of(model), aux_loss=getattr(model, "aux_loss", False))
        module = module.to(torch.float64 if dtype == "float64" else torch.float32)
        if state_dict is None:
            randomize(module, to_torch(draw(train_image_size)), seed)
            state_dict = {key: value.numpy() for key, value in module.state_dict().items()}
        else:
            state_dict = translate(state_dict, model, layout=layout_of(model))
            module.load_state_dict(to_tensors(state_dict))
        variables = from_torchvision(state_dict, model)
        return compare_networks(
            model,
            variables,
            module,
            images=[draw(size) for size in sizes] if images is None else [np.asarray(images, float_type)],
            train_images=[draw(train_image_size) for _ in range(steps)],
            argmax_images=[draw(sizes[-1]) for _ in range(-(-argmax_images // batch_size))],
            optimizers=optimizers,
            checks=checks,
            tolerances=tolerances_for(dtype),
            title=f"{name}, {dtype}",
        )


def compare_networks(
    model: Any,
    variables: PyTree[Array],
    module: Any,
    *,
    images: Sequence[Float[np.ndarray, "N *S C"]],
    train_images: Sequence[Float[np.ndarray, "N *S C"]],
    tolerances: Tolerances,
    optimizers: Sequence[str] = ("all together",),
    checks: Sequence[Check] = CHECKS,
    argmax_images: Sequence[Float[np.ndarray, "N *S C"]] = (),
    title: str = "comparison",
) -> Report:
    """Compares any network of ours with any `torch.nn.Module` whose parameters carry the same names.

    Args:
      variables: of `model`; the module's own parameters must be the same numbers (`from_torchvision`).
      module: is left as it was. It must drop no numbers in training.
      images: batches for the forward comparison.
      train_images: batches. The first is used for the gradients, the first three for the running statistics, all for
        the trajectories, one batch per step. Labels, or masks with 255 in places, are drawn at random.
      argmax_images: batches for which both sides must name the same class.
      tolerances: such as `tolerances_for("float32")`.
    """
    rng = np.random.default_rng(0)
    draw = problem_of(model).draw
    labelled = [(batch, draw(rng, batch, outputs_of(model))) for batch in train_images]
    report = Report(title, _setting(images, train_images))
    sections: list[Section] = report.sections
    if "forward" in checks:
        for batch in images:
            section, difference = compare_forward(trace(model, variables, batch), module, batch, tolerances)
            sections.append(section)
            report.difference = report.difference or difference
    if argmax_images:
        sections.append(compare_argmax(model, variables, module, argmax_images))
    if "gradients" in checks:
        sections.append(compare_gradients(model, variables, copy.deepcopy(module), *labelled[0], tolerances))
    if "statistics" in checks:
        passes = list(train_images[:3])
        sections.append(compare_statistics(model, variables, copy.deepcopy(module), passes, tolerances))
    if "trajectory" in checks:
        for optimizer in names_of(optimizers):
            copied = copy.deepcopy(module)
            sections.append(compare_trajectory(model, variables, copied, labelled, optimizer, tolerances))
    if report.difference is None:
        report.difference = _first_failure(sections)
    return report


def _first_failure(sections: list[Section]) -> str | None:
    for section in sections:
        for row in section.rows:
            if not row.ok:
                return (
                    f"first difference in {section.title}: {row.name}, relative error {row.relative:.1e} > "
                    f"{row.tolerance:.0e}; worst: {section.worst.name}, {section.worst.relative:.1e}"
                )
    return None


def _setting(images: Sequence[np.ndarray], train_images: Sequence[np.ndarray]) -> dict[str, Any]:
    import torch

    shape = lambda batch: "x".join(map(str, batch.shape))
    return {
        "jax": f"{jax.__version__} ({jax.default_backend()})",
        "torch": torch.__version__,
        "images": " and ".join(map(shape, images)),
        "training images": shape(train_images[0]),
    }
