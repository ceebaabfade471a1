"""Finds wrong labels by the norm of each example's own gradient.

    python examples/hard_examples.py           # under half a minute on two CPU cores

A twentieth of the digits get a wrong label. After a short training the examples with the largest gradients are mostly
those: the network has not yet learnt them by heart, and pulls hardest against them.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import resnet_jax as rn


def main(steps: int = 100, batch_size: int = 128) -> float:
    digits = load_digits()
    images = (digits.images[..., None] / 16).astype(np.float32)  # (1797, 8, 8, 1)
    labels = digits.target.copy()
    rng = np.random.default_rng(0)
    wrong = rng.choice(len(labels), len(labels) // 20, replace=False)
    labels[wrong] = (labels[wrong] + rng.integers(1, 10, len(wrong))) % 10

    model = rn.create_model("cifar_resnet20", stage_sizes=(1, 1, 1))
    variables = rn.init(model, jax.random.key(0), channels=1)
    optimizer = optax.sgd(0.1, momentum=0.9)
    opt_state = optimizer.init(variables["params"])

    def cross_entropy(logits, labels):
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step(variables, opt_state, images, labels):
        def loss_of(params):
            logits, updates = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
            return cross_entropy(logits, labels), updates

        gradient, updates = jax.grad(loss_of, has_aux=True)(variables["params"])
        delta, opt_state = optimizer.update(gradient, opt_state)
        return {"params": optax.apply_updates(variables["params"], delta), **updates}, opt_state

    for _ in range(steps):
        chosen = rng.integers(0, len(images), batch_size)
        variables, opt_state = step(variables, opt_state, images[chosen], labels[chosen])

    @jax.jit
    def gradient_norms(variables, images, labels):
        """(N, H, W, C), (N,) -> (N,): the norm of the gradient that each image alone would give."""

        def loss_of_one(params, image, label):
            logits = model.apply({**variables, "params": params}, image[None], train=False)
            return cross_entropy(logits, label[None])

        gradients = jax.vmap(jax.grad(loss_of_one), in_axes=(None, 0, 0))(variables["params"], images, labels)
        return jnp.sqrt(sum(jnp.sum(g**2, axis=range(1, g.ndim)) for g in jax.tree.leaves(gradients)))

    pieces = range(0, len(images) // batch_size * batch_size, batch_size)
    norms = np.concatenate(
        [gradient_norms(variables, images[i : i + batch_size], labels[i : i + batch_size]) for i in pieces]
    )
    suspects = np.argsort(-norms)[: len(wrong)]
    found = float(np.isin(suspects, wrong).mean())
    print(f"of the {len(suspects)} examples with the largest gradients {100 * found:.0f} % have a wrong label")
    return found


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
