"""Both sides in training mode: gradients, running statistics, and several steps of our own training step."""

from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import AxisType
from jaxtyping import Array, Float, Int, PyTree

from resnet_jax.models import ResNet
from resnet_jax.parity.report import Row, Section, compare_arrays
from resnet_jax.parity.settings import Setting, setting_of
from resnet_jax.parity.tolerances import Tolerances
from resnet_jax.parity.torch_training import train as train_torch
from resnet_jax.parity.trace import to_torch
from resnet_jax.runtime.mesh import replicated
from resnet_jax.tasks.classify.loss import make_loss
from resnet_jax.training.losses import cross_entropy, one_hot
from resnet_jax.training.optim import make_optimizer, make_schedule
from resnet_jax.training.state import TrainState, new_state
from resnet_jax.training.step import make_train_step
from resnet_jax.weights import layout_of, to_torchvision
from resnet_jax.weights.names import torch_key

Images = Float[np.ndarray, "N H W C"]
Labels = Int[np.ndarray, " N"]


def compare_gradients(
    model: ResNet, variables: PyTree[Array], module: Any, images: Images, labels: Labels, tolerances: Tolerances
) -> Section:
    """The gradient of the mean cross entropy, in training mode, with respect to every parameter."""

    def loss(params: PyTree[Array]) -> Array:
        logits, _ = model.apply(
            {"params": params, "batch_stats": variables["batch_stats"]}, images, train=True, mutable=["batch_stats"]
        )
        return jnp.mean(cross_entropy(logits, one_hot(jnp.asarray(labels), model.num_classes)))

    import torch

    ours = _as_torch(model, {"params": jax.jit(jax.grad(loss))(variables["params"])})
    module.train().zero_grad()
    torch.nn.functional.cross_entropy(module(to_torch(images)), torch.from_numpy(labels).long()).backward()
    theirs = {name: parameter.grad.numpy() for name, parameter in module.named_parameters()}
    return Section("gradients", _rows(ours, theirs, tolerances.gradients, tolerances.cosine))


def compare_statistics(
    model: ResNet, variables: PyTree[Array], module: Any, batches: list[Images], tolerances: Tolerances
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
    model: ResNet,
    variables: PyTree[Array],
    module: Any,
    batches: list[tuple[Images, Labels]],
    optimizer: str,
    tolerances: Tolerances,
) -> Section:
    """One step per batch: the loss of every step, then how far the steps moved every parameter, then the statistics.

    Ours is the compiled step that `train.py` runs, on one device. PyTorch's is `torch.optim.SGD` or `AdamW` with a
    scheduler of `torch.optim.lr_scheduler`. The error is relative to the largest change, which is far smaller than the
    parameter. A frozen parameter must not have moved at all.
    """
    setting = setting_of(optimizer, model)
    layout = layout_of(model)
    paths = {torch_key(("params", *path), layout): "/".join(path) for path in flatten_dict(variables["params"])}
    ours, losses = _train(model, variables, batches, setting)
    theirs = train_torch(module, batches, setting, paths)
    rows = [
        compare_arrays(f"loss {i}", np.asarray(a), np.asarray(b), tolerances.trajectory)
        for i, (a, b) in enumerate(zip(losses, theirs.losses, strict=True), 1)
    ]
    moved = jax.tree.map(lambda after, before: np.asarray(after) - np.asarray(before), ours.params, variables["params"])
    rows += _rows(
        _as_torch(model, {"params": moved}), theirs.moved, tolerances.trajectory, tolerances.trajectory_cosine
    )
    rows += _rows(_as_torch(model, {"batch_stats": ours.batch_stats}), theirs.statistics, tolerances.trajectory)
    rule = "AdamW" if setting.optim.optimizer == "adamw" else "SGD"
    return Section(f"{len(batches)} steps of {rule}, {optimizer}", rows)


def _train(
    model: ResNet, variables: PyTree[Array], batches: list[tuple[Images, Labels]], setting: Setting
) -> tuple[TrainState, list[float]]:
    # base_lr is stated for 256 images. With this nominal batch it is the rate itself.
    config = setting.optim
    optimizer = make_optimizer(config, make_schedule(config, 256, Fraction(1), len(batches)))
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
    # The images are normalised already.
    keep = lambda key, batch: {**batch, "target": one_hot(batch["label"], model.num_classes)}
    loss = make_loss(model, keep, label_smoothing=setting.label_smoothing)
    step = make_train_step(loss, optimizer, mesh, bn_group_size=model.bn_group_size, groups=config.groups)
    copied = jax.tree.map(jnp.copy, {name: variables[name] for name in ("params", "batch_stats")})  # the step donates
    state = new_state(copied, optimizer, jax.random.key(0), groups=config.groups)
    state = jax.device_put(state, replicated(mesh))  # as the step returns it, to compile only once
    losses = []
    for images, labels in batches:
        state, metrics = step(state, {"image": jnp.asarray(images), "label": jnp.asarray(labels, jnp.int32)})
        losses.append(float(metrics["loss"]))
    return state, losses


def _as_torch(model: ResNet, tree: PyTree[Array]) -> dict[str, np.ndarray]:
    return to_torchvision(tree, layout=layout_of(model))


def _rows(
    ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], tolerance: float, min_cosine: float = -1.0
) -> list[Row]:
    """Rows in PyTorch's order. A tensor that only one side has is empty on the other side."""
    nothing = np.zeros((0,))
    names = [*theirs, *(name for name in ours if name not in theirs and "num_batches" not in name)]
    return [
        compare_arrays(name, ours.get(name, nothing), theirs.get(name, nothing), tolerance, min_cosine)
        for name in names
    ]
