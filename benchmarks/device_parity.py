"""What this machine's accelerator computes, beside the same in float64 on its CPU.

One network's forward pass and one training step, by the functions that `train.py` uses. Momentum after the first step
is the gradient with its weight decay, so a step shows gradients, new parameters and new running statistics.
"""

import dataclasses
import os
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from resnet_jax.models import ResNet, create_model, init
from resnet_jax.runtime.mesh import make_mesh, replicated, split_batch
from resnet_jax.training.losses import one_hot
from resnet_jax.training.state import TrainState
from resnet_jax.training.step import make_train_step

# By how much an array may differ, as the length of the difference by that of the whole (2-norms). Of gradients the
# most: where a ReLU's input lies close to 0 one side passes it and the other does not. A CPU in float32 and bfloat16 is
# off by 4e-7 and 2e-3 in the logits of ResNet-50 (8 images of 97 pixels), 1e-3 and 0.4 in its gradients, 8e-7 and 2e-4
# in its new parameters. The rest is for other orders of summation and for cuDNN's Winograd. TF32 in place of float32
# does not pass, nor does a kernel that misses a tap (tests/cost/test_gpu_check.py).
TOLERANCES = {
    "float32": {"logits": 1e-5, "loss": 1e-5, "gradients": 1e-2, "parameters": 1e-5, "statistics": 1e-5},
    "bfloat16": {"logits": 0.02, "loss": 0.02, "gradients": 0.8, "parameters": 5e-3, "statistics": 0.02},
}
LEARNING_RATE = 0.01


@dataclass(frozen=True)
class Deviation:
    """How far a quantity is from float64's; `form` is the platform whose form the layers were lowered in."""

    network: str
    form: str
    dtype: str
    quantity: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # and so false where the error is nan


def network(name: str) -> ResNet:
    """A variant; `resnet152-like` has a third of ResNet-152's blocks in its third stage, to compile in time."""
    if name == "resnet152-like":
        return create_model("resnet152", num_classes=100).clone(stage_sizes=(3, 8, 12, 3))
    return create_model(name, num_classes=100)


def deviations(name: str, form: str, dtype: str, *, batch_size: int, image_size: int) -> list[Deviation]:
    """In a process of its own: it asks JAX for 64 bits and sets RESNET_JAX_FORMS.

    Args:
      name: of `network`.
      form: a platform, whose form of the layers the device gets; empty = its own.
      dtype: of `TOLERANCES`.
    """
    jax.config.update("jax_enable_x64", True)
    os.environ.pop("RESNET_JAX_FORMS", None)
    model, rng = network(name), np.random.default_rng(0)
    cpu, device = jax.devices("cpu")[0], jax.devices()[0]
    with jax.default_device(cpu):
        variables = randomized(init(model, jax.random.key(0)), rng)
    images = rng.normal(size=(batch_size, image_size, image_size, 3))
    labels = rng.integers(0, model.num_classes, batch_size)
    expected = results(model, "float64", cpu, variables, images, labels)
    if form:
        os.environ["RESNET_JAX_FORMS"] = form
    got = results(model, dtype, device, variables, images, labels)
    return [
        Deviation(
            name, form or device.platform, dtype, quantity, relative_error(got[quantity], expected[quantity]), tolerance
        )
        for quantity, tolerance in TOLERANCES[dtype].items()
    ]


def randomized(variables: Any, rng: np.random.Generator) -> Any:
    """Scales, biases and statistics that do not hide errors, as they do at initialisation.

    The norm that ends a branch gets a small scale. With a large one gradients grow from block to block, and so does the
    difference that a ReLU makes which passes a value near 0 on one side only.
    """
    params = variables["params"]
    last = {
        (block, max(name for name in parts if name.startswith("bn")))
        for block, parts in params.items()
        if block.startswith("layer")
    }

    def draw(path: tuple[Any, ...], leaf: jax.Array) -> np.ndarray:
        kind = path[-1].key
        if kind == "scale" and tuple(key.key for key in path[1:3]) in last:
            return rng.uniform(0.1, 0.3, leaf.shape)
        if kind in ("var", "scale"):
            return rng.uniform(0.5, 1.0, leaf.shape)
        if kind in ("mean", "bias"):
            return 0.1 * rng.normal(size=leaf.shape)
        return np.asarray(leaf, np.float64)

    return jax.tree_util.tree_map_with_path(draw, variables)


def results(model: ResNet, dtype: str, device: jax.Device, variables: Any, images: Any, labels: Any) -> dict[str, Any]:
    """Logits in evaluation and what a training step of that dtype on that device makes, in float64."""
    wide = "float64" if dtype == "float64" else "float32"
    model = dataclasses.replace(model, dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(wide), precision="highest")
    mesh = make_mesh([device])
    variables = jax.device_put(jax.tree.map(lambda leaf: np.asarray(leaf, wide), variables), replicated(mesh))
    batch = {"image": np.asarray(images, wide), "label": np.asarray(labels, np.int32)}
    batch = jax.device_put(batch, split_batch(mesh))
    logits = jax.jit(lambda variables, images: model.apply(variables, images, train=False))(variables, batch["image"])

    optimizer = optax.chain(optax.add_decayed_weights(1e-4), optax.trace(0.9), optax.scale(-LEARNING_RATE))
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(variables["params"]),
        key=jax.random.key_data(jax.random.key(0)),
    )

    def take_as_they_are(key: Any, images: Any, labels: Any, **_: Any) -> tuple[Any, Any]:
        return images, one_hot(labels, model.num_classes).astype(wide)

    step = make_train_step(model, optimizer, take_as_they_are, mesh)
    state, metrics = step(jax.device_put(state, replicated(mesh)), batch)
    found = {
        "logits": logits,
        "loss": metrics["loss"],
        "gradients": state.opt_state[1].trace,
        "parameters": state.params,
        "statistics": state.batch_stats,
    }
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), found)


def relative_error(got: Any, expected: Any) -> float:
    """Of all arrays of a tree as one."""
    off = sum(float(np.sum((a - b) ** 2)) for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True))
    return (off / sum(float(np.sum(b**2)) for b in jax.tree.leaves(expected))) ** 0.5
