"""Both sides in training mode: gradients, running statistics, and several steps of our own training step."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import AxisType
from jaxtyping import Array, PyTree

from resnet_jax.models.headed import resnet_in
from resnet_jax.parity.problem import Images, Targets, by_name, problem_of
from resnet_jax.parity.report import Row, Section, compare_arrays
from resnet_jax.parity.settings import Setting, setting_of
from resnet_jax.parity.tolerances import Tolerances
from resnet_jax.parity.torch_training import train as train_torch
from resnet_jax.parity.trace import to_torch
from resnet_jax.runtime.mesh import replicated
from resnet_jax.training.optim import make_optimizer
from resnet_jax.training.schedule import make_schedule
from resnet_jax.training.state import TrainState, new_state
from resnet_jax.training.step import make_train_step
from resnet_jax.weights import family_of, layout_of, to_torchvision
from resnet_jax.weights.names import torch_key


def compare_gradients(
    model: Any, variables: PyTree[Array], module: Any, images: Images, targets: Targets, tolerances: Tolerances
) -> Section:
    """The loss of `train.py` and its gradient, in training mode, with respect to every parameter."""
    problem = problem_of(model)
    of_part = problem.loss(model, 0.0)
    batch = {**problem.batch(images, targets), "position": jnp.arange(len(images))}

    def loss(params: PyTree[Array]) -> Array:
        found = of_part(params, variables["batch_stats"], batch, jax.random.key(0), None)
        return jnp.sum(found.loss) / (len(images) if found.weight is None else jnp.sum(found.weight))

    import torch

    value, gradient = jax.jit(jax.value_and_grad(loss))(variables["params"])
    module.train().zero_grad()
    expected = problem.torch_loss(by_name(module(to_torch(images))), torch.from_numpy(targets).long(), 0.0)
    expected.backward()
    theirs = {name: parameter.grad.numpy() for name, parameter in module.named_parameters()}
    rows = [compare_arrays("loss", np.asarray(value), expected.detach().numpy(), tolerances.forward)]
    rows += _rows(
        _as_torch(model, {"params": gradient}), theirs, tolerances.gradients, tolerances.cosine, are_sums=True
    )
    return Section("gradients", rows)


def compare_statistics(
    model: Any, variables: PyTree[Array], module: Any, batches: list[Images], tolerances: Tolerances
) -> Section:
    """Running means and variances after one pass over each batch in training mode."""
    import torch

    @jax.jit
    def move(batch_stats: PyTree[Array], images: Array) -> PyTree[Array]:
        seen = {"params": variables["params"], "batch_stats": batch_stats}
        return model.apply(seen, images, train=True, mutable=["batch_stats"])[1]["batch_stats"]

    batch_stats = variables["batch_stats"]
    for images in batches:
        batch_stats = move(batch_stats, images)
        with torch.no_grad():
            module.train()(to_torch(images))
    theirs = {name: buffer.numpy() for name, buffer in module.named_buffers() if "num_batches" not in name}
    title = f"running statistics after {len(batches)} passes"
    return Section(title, _rows(_as_torch(model, {"batch_stats": batch_stats}), theirs, tolerances.statistics))


def compare_trajectory(
    model: Any,
    variables: PyTree[Array],
    module: Any,
    batches: list[tuple[Images, Targets]],
    optimizer: str,
    tolerances: Tolerances,
) -> Section:
    """One step per batch: the loss of every step, then how far the steps moved every parameter, then the statistics.

    Ours is the compiled step that `train.py` runs, on one device. PyTorch's is `torch.optim.SGD` or `AdamW` with a
    scheduler of `torch.optim.lr_scheduler`. The error is relative to the largest change, which is far smaller than the
    parameter. A frozen parameter must not have moved at all.
    """
    setting = setting_of(optimizer, model)
    layout, family = layout_of(model), family_of(model)
    paths = {torch_key(("params", *path), layout, family): "/".join(path) for path in flatten_dict(variables["params"])}
    ours, losses = _train(model, variables, batches, setting)
    theirs = train_torch(module, batches, setting, paths, problem_of(model).torch_loss)
    rows = [
        compare_arrays(f"loss {i}", np.asarray(a), np.asarray(b), tolerances.trajectory)
        for i, (a, b) in enumerate(zip(losses, theirs.losses, strict=True), 1)
    ]
    moved = jax.tree.map(lambda after, before: np.asarray(after) - np.asarray(before), ours.params, variables["params"])
    before = _as_torch(model, {"params": variables["params"]})
    rows += _rows(
        *(_as_torch(model, {"params": moved}), theirs.moved, tolerances.trajectory, tolerances.trajectory_cosine),
        are_sums=True,
        # A parameter is rounded in each step.
        rounding={name: len(batches) * np.finfo(array.dtype).eps * _largest(array) for name, array in before.items()},
    )
    rows += _rows(_as_torch(model, {"batch_stats": ours.batch_stats}), theirs.statistics, tolerances.trajectory)
    rule = "AdamW" if setting.optim.optimizer == "adamw" else "SGD"
    return Section(f"{len(batches)} steps of {rule}, {optimizer}", rows)


def _train(
    model: Any, variables: PyTree[Array], batches: list[tuple[Images, Targets]], setting: Setting
) -> tuple[TrainState, list[float]]:
    # base_lr is stated for 256 images. With this nominal batch it is the rate itself.
    config = setting.optim
    optimizer = make_optimizer(config, make_schedule(config, 256, Fraction(1), len(batches)))
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
    problem = problem_of(model)
    loss = problem.loss(model, setting.label_smoothing)
    group = resnet_in(model).bn_group_size
    step = make_train_step(loss, optimizer, mesh, bn_group_size=group, groups=config.groups)
    copied = jax.tree.map(jnp.copy, {name: variables[name] for name in ("params", "batch_stats")})  # the step donates
    state = new_state(copied, optimizer, jax.random.key(0), groups=config.groups)
    state = jax.device_put(state, replicated(mesh))  # as the step returns it, to compile only once
    losses = []
    for images, targets in batches:
        state, metrics = step(state, problem.batch(images, targets))
        losses.append(float(metrics["loss"]))
    return state, losses


def _as_torch(model: Any, tree: PyTree[Array]) -> dict[str, np.ndarray]:
    return to_torchvision(tree, layout=layout_of(model))


def _rows(
    ours: dict[str, np.ndarray],
    theirs: dict[str, np.ndarray],
    tolerance: float,
    min_cosine: float = -1.0,
    *,
    are_sums: bool = False,
    rounding: Mapping[str, float] | None = None,
) -> list[Row]:
    """Rows in PyTorch's order. A tensor that only one side has is empty on the other side.

    Args:
      are_sums: the numbers are gradients. A constant before a batch normalisation changes nothing, so some gradients of
        an iresnet are 0. There each side finds the rounding of its own sums. It is measured by the largest gradient.
      rounding: the error of numbers by itself, by the name of their tensor; None = 0.
    """
    nothing, of_sums = np.zeros((0,)), 0.0
    if are_sums:
        eps = max(np.finfo(array.dtype).eps for array in theirs.values())
        of_sums = 100 * eps * max(map(_largest, theirs.values()))
    names = [*theirs, *(name for name in ours if name not in theirs and "num_batches" not in name)]
    return [
        compare_arrays(
            *(name, ours.get(name, nothing), theirs.get(name, nothing), tolerance, min_cosine),
            nothing=max(of_sums, (rounding or {}).get(name, 0.0)),
        )
        for name in names
    ]


def _largest(array: np.ndarray) -> float:
    return float(np.max(np.abs(array), initial=0.0))
