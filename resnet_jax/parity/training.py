"""Both sides in training mode: gradients, running statistics, and several steps of our own training step."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import AxisType
from jaxtyping import Array, Float, Int, PyTree

from resnet_jax.config import OptimConfig
from resnet_jax.models import ResNet
from resnet_jax.parity.report import Row, Section, compare_arrays
from resnet_jax.parity.tolerances import Tolerances
from resnet_jax.parity.trace import to_torch
from resnet_jax.runtime.mesh import replicated
from resnet_jax.tasks.classify.loss import make_loss
from resnet_jax.training.losses import cross_entropy, one_hot
from resnet_jax.training.optim import make_optimizer, make_schedule
from resnet_jax.training.state import new_state
from resnet_jax.training.step import make_train_step
from resnet_jax.weights import layout_of, to_torchvision
from resnet_jax.weights.names import torch_key

Images = Float[np.ndarray, "N H W C"]
Labels = Int[np.ndarray, " N"]

# The small rate keeps a network of random weights and labels from chaos, which would multiply rounding errors by 10 and
# more in every step. An epoch is one step. In the step schedule the rate drops after the third and the seventh.
_PLAIN = OptimConfig(base_lr=1e-4, warmup_epochs=0.0, schedule="constant", momentum=0.0, weight_decay=0.0)
_MOMENTUM = replace(_PLAIN, momentum=0.9)
_DECAY = replace(_MOMENTUM, weight_decay=1e-3)
_RECIPE = replace(_DECAY, nesterov=True, schedule="cosine", no_decay=(r"bn", r"bias"))
OPTIMIZERS: dict[str, OptimConfig] = {
    "plain": _PLAIN,
    "momentum": _MOMENTUM,
    "nesterov": replace(_MOMENTUM, nesterov=True),
    "weight decay": _DECAY,
    "weight decay, not of norms and biases": replace(_DECAY, no_decay=(r"bn", r"bias")),
    "step schedule": replace(_DECAY, schedule="step", drop_epochs=(3.0, 7.0)),
    "cosine schedule": replace(_DECAY, schedule="cosine"),
    "label smoothing": _DECAY,
    "all together": _RECIPE,
}
"""The optimizers of the trajectories. `all together` is what a recipe would use."""
LABEL_SMOOTHING = {"label smoothing": 0.1, "all together": 0.1}
"""The label smoothing of the trajectories; 0 for those that are not named."""


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
    """One step of SGD per batch: the loss of every step, then how far the steps moved every parameter.

    Ours is the compiled step that `train.py` runs, on one device. PyTorch's is `torch.optim.SGD` with a scheduler of
    `torch.optim.lr_scheduler`. The error is relative to the largest change, which is far smaller than the parameter.
    """
    config, smoothing = OPTIMIZERS[optimizer], LABEL_SMOOTHING.get(optimizer, 0.0)
    ours, losses = _train(model, variables, batches, config, smoothing)
    theirs, expected = _train_torch(model, variables, module, batches, config, smoothing)
    rows = [
        compare_arrays(f"loss {i}", np.asarray(a), np.asarray(b), tolerances.trajectory)
        for i, (a, b) in enumerate(zip(losses, expected, strict=True), 1)
    ]
    moved = jax.tree.map(lambda after, before: np.asarray(after) - np.asarray(before), ours, variables["params"])
    rows += _rows(_as_torch(model, {"params": moved}), theirs, tolerances.trajectory, tolerances.trajectory_cosine)
    return Section(f"{len(batches)} steps of SGD, {optimizer}", rows)


def _train(
    model: ResNet, variables: PyTree[Array], batches: list[tuple[Images, Labels]], config: OptimConfig, smoothing: float
) -> tuple[PyTree[Array], list[float]]:
    # base_lr is stated for 256 images. With this nominal batch it is the rate itself.
    optimizer = make_optimizer(config, make_schedule(config, 256, Fraction(1), len(batches)))
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
    # The images are normalised already.
    keep = lambda key, batch: {**batch, "target": one_hot(batch["label"], model.num_classes)}
    loss = make_loss(model, keep, label_smoothing=smoothing)
    step = make_train_step(loss, optimizer, mesh, bn_group_size=model.bn_group_size)
    copied = jax.tree.map(jnp.copy, {name: variables[name] for name in ("params", "batch_stats")})  # the step donates
    state = new_state(copied, optimizer, jax.random.key(0))
    state = jax.device_put(state, replicated(mesh))  # as the step returns it, to compile only once
    losses = []
    for images, labels in batches:
        state, metrics = step(state, {"image": jnp.asarray(images), "label": jnp.asarray(labels, jnp.int32)})
        losses.append(float(metrics["loss"]))
    return state.params, losses


def _train_torch(
    model: ResNet,
    variables: PyTree[Array],
    module: Any,
    batches: list[tuple[Images, Labels]],
    config: OptimConfig,
    smoothing: float,
) -> tuple[dict[str, np.ndarray], list[float]]:
    import re

    import torch

    layout = layout_of(model)
    paths = {torch_key(("params", *path), layout): "/".join(path) for path in flatten_dict(variables["params"])}
    groups: dict[bool, list[Any]] = {True: [], False: []}
    for name, parameter in module.named_parameters():
        groups[not any(re.search(pattern, paths[name]) for pattern in config.no_decay)].append(parameter)
    sgd = torch.optim.SGD(
        [
            {"params": groups[True], "weight_decay": config.weight_decay},
            {"params": groups[False], "weight_decay": 0.0},
        ],
        lr=config.base_lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
    )
    scheduler = {
        "constant": lambda: torch.optim.lr_scheduler.ConstantLR(sgd, factor=1.0),
        "step": lambda: torch.optim.lr_scheduler.MultiStepLR(
            sgd, [round(epoch) for epoch in config.drop_epochs], config.drop_factor
        ),
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(sgd, len(batches)),
    }[config.schedule]()
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)
    losses = []
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    module.train()
    for images, labels in batches:
        sgd.zero_grad()
        loss = criterion(module(to_torch(images)), torch.from_numpy(labels).long())
        loss.backward()
        sgd.step()
        scheduler.step()
        losses.append(loss.item())
    return {name: (parameter.detach() - before[name]).numpy() for name, parameter in module.named_parameters()}, losses


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
