"""Follows the largest eigenvalue of the Hessian while plain gradient descent trains a network.

    python examples/sharpness.py               # about half a minute on two CPU cores

What to expect: it starts at about 11, where descent on a quadratic would diverge (2 / rate = 10), rises to 14 while the
loss falls fastest, and ends at about 4 as the predictions become confident.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import resnet_jax as rn


def main(steps: int = 60, every: int = 6, learning_rate: float = 0.2) -> list[float]:
    digits = load_digits()
    images = (digits.images[:128, ..., None] / 16).astype(np.float32)  # (128, 8, 8, 1)
    labels = digits.target[:128]

    model = rn.create_model("cifar_resnet20", stage_sizes=(1, 1, 1), width=8, act="silu")  # smooth, unlike relu
    variables = rn.init(model, jax.random.key(0), channels=1)

    def loss(params):
        """Of all images at once, normalised by their own statistics: a function of the parameters alone."""
        logits = model.apply({**variables, "params": params}, images, train=True, update_stats=False)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def descend(params):
        value, gradient = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - learning_rate * g, params, gradient), value

    @jax.jit
    def sharpness(params, direction):
        """Twenty steps of power iteration from `direction`: the eigenvalue of largest size, and its eigenvector."""

        def improve(_, carry):
            direction, _ = carry
            product = jax.jvp(jax.grad(loss), (params,), (direction,))[1]
            norm = optax.tree.norm(product)
            return jax.tree.map(lambda x: x / norm, product), optax.tree.vdot(direction, product)

        return jax.lax.fori_loop(0, 20, improve, (direction, jnp.zeros(())))

    params = variables["params"]
    direction = jax.tree.map(jnp.ones_like, params)
    direction = jax.tree.map(lambda x: x / optax.tree.norm(direction), direction)
    eigenvalues = []
    for i in range(steps + 1):
        if i % every == 0:
            direction, eigenvalue = sharpness(params, direction)
            eigenvalues.append(float(eigenvalue))
        params, value = descend(params)
        if i % every == 0:
            print(f"step {i:>4}  loss {value:.4f}  sharpness {eigenvalue:8.3f}  (2 / rate = {2 / learning_rate:g})")
    return eigenvalues


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
