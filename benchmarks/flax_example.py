"""A peer: ResNet-v1.5 as google/flax's ImageNet example publishes its structure.

`nn.Conv` and `nn.BatchNorm` of Linen with the options of that example: SAME-like padding, statistics over the whole
batch, a zero scale at the end of each branch. It is written from that description, for measuring only.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array


class Block(nn.Module):
    filters: int
    stride: int
    bottleneck: bool
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        strides = (self.stride, self.stride)
        if self.bottleneck:
            y = nn.relu(self.norm()(self.conv(self.filters, (1, 1))(x)))
            y = nn.relu(self.norm()(self.conv(self.filters, (3, 3), strides)(y)))
            y = self.conv(4 * self.filters, (1, 1))(y)
        else:
            y = nn.relu(self.norm()(self.conv(self.filters, (3, 3), strides)(x)))
            y = self.conv(self.filters, (3, 3))(y)
        y = self.norm(scale_init=nn.initializers.zeros)(y)
        if x.shape != y.shape:
            x = self.norm()(self.conv(y.shape[-1], (1, 1), strides)(x))
        return nn.relu(x + y)


class FlaxExample(nn.Module):
    stage_sizes: Sequence[int]
    bottleneck: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype)
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype)
        x = conv(64, (7, 7), (2, 2), padding=[(3, 3), (3, 3)])(x)
        x = nn.max_pool(nn.relu(norm()(x)), (3, 3), strides=(2, 2), padding="SAME")
        for i, blocks in enumerate(self.stage_sizes):
            for j in range(blocks):
                x = Block(64 * 2**i, 2 if i > 0 and j == 0 else 1, self.bottleneck, conv, norm)(x)
        x = nn.Dense(1000, dtype=self.dtype)(jnp.mean(x, axis=(1, 2)))
        return jnp.asarray(x, jnp.float32)


SHAPES = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
}


def build(name: str, dtype: Any) -> FlaxExample:
    if name not in SHAPES:
        raise LookupError(f"the example has no {name}, but {', '.join(SHAPES)}")
    return FlaxExample(*SHAPES[name], dtype=dtype)


def make_forward(model: FlaxExample) -> Callable[..., Array]:
    """Logits in evaluation."""

    def forward(variables: Any, images: Array) -> Array:
        return model.apply(variables, images, train=False)

    return forward


def make_step(model: FlaxExample) -> tuple[Callable[[Any], Any], Callable[..., tuple[Any, Array]]]:
    """`(first state from variables, training step)`: SGD with momentum and weight decay."""
    optimizer = optax.sgd(1e-3, momentum=0.9)

    def first_state(variables: Any) -> tuple[Any, Any]:
        return variables, optimizer.init(variables["params"])

    def step(state: tuple[Any, Any], images: Array, labels: Array) -> tuple[tuple[Any, Any], Array]:
        variables, opt_state = state

        def loss_of(params: Any) -> tuple[Array, Any]:
            everything = {"params": params, "batch_stats": variables["batch_stats"]}
            logits, new = model.apply(everything, images, train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), new

        (loss, new), grads = jax.value_and_grad(loss_of, has_aux=True)(variables["params"])
        # As the example does: weight decay in the loss, which is a term in the gradient.
        grads = jax.tree.map(lambda g, p: g + 1e-4 * p, grads, variables["params"])
        updates, opt_state = optimizer.update(grads, opt_state)
        return ({"params": optax.apply_updates(variables["params"], updates), **new}, opt_state), loss

    return first_state, step


def flax_example(name: str, images: Array, labels: Array, dtype: Any) -> tuple[Any, Any, Callable[..., Any], Any]:
    """Two jitted functions with their first arguments: `(forward, variables, train step, training state)`."""
    model = build(name, dtype)
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), images[:1])
    first_state, step = make_step(model)
    state = first_state(jax.tree.map(jnp.copy, variables))
    return jax.jit(make_forward(model)), variables, jax.jit(step, donate_argnums=0), state


def lower_train_step(
    devices: Sequence[jax.Device], name: str, images: int, dtype: str, size: int = 224
) -> jax.stages.Lowered:
    """For devices that need not be there (`resnet_jax.cost.aot`): `images` float32 images on each."""
    model, split, whole = build(name, jnp.dtype(dtype)), *_shardings(devices)
    first_state, step = make_step(model)
    state = _shapes(jax.eval_shape(lambda: first_state(_variables(model))), whole)
    batch = jax.ShapeDtypeStruct((images * len(devices), size, size, 3), jnp.float32, sharding=split)
    labels = jax.ShapeDtypeStruct(batch.shape[:1], jnp.int32, sharding=split)
    return jax.jit(step, donate_argnums=0, out_shardings=whole).lower(state, batch, labels)


def lower_forward(
    devices: Sequence[jax.Device], name: str, images: int, dtype: str, size: int = 224
) -> jax.stages.Lowered:
    """As `lower_train_step`, in evaluation."""
    model, split, whole = build(name, jnp.dtype(dtype)), *_shardings(devices)
    variables = _shapes(jax.eval_shape(lambda: _variables(model)), whole)
    batch = jax.ShapeDtypeStruct((images * len(devices), size, size, 3), jnp.float32, sharding=split)
    return jax.jit(make_forward(model)).lower(variables, batch)


def _shardings(devices: Sequence[jax.Device]) -> tuple[NamedSharding, NamedSharding]:
    mesh = Mesh(np.array(devices), ("data",))
    return NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())


def _variables(model: FlaxExample) -> Any:
    return model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False)


def _shapes(tree: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)
