"""Trains K networks from K initialisations side by side, as one compiled program, and takes their mean vote.

    python examples/ensemble.py                # 4 members, half a minute on two CPU cores

What to expect: the mean of the members' probabilities is at least as accurate as the average member.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import resnet_jax as rn


def main(members: int = 4, steps: int = 150, batch_size: int = 64) -> tuple[list[float], float]:
    digits = load_digits()
    images = (digits.images[..., None] / 16).astype(np.float32)  # (1797, 8, 8, 1)
    labels = digits.target
    held_out = 360

    model = rn.create_model("cifar_resnet20", stage_sizes=(1, 1, 1))
    optimizer = optax.sgd(optax.cosine_decay_schedule(0.1, steps), momentum=0.9)

    def init(key):
        variables = rn.init(model, key, channels=1)
        return variables, optimizer.init(variables["params"])

    def step(state, images, labels):
        variables, opt_state = state

        def loss_of(params):
            logits, updates = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updates

        (loss, updates), gradient = jax.value_and_grad(loss_of, has_aux=True)(variables["params"])
        delta, opt_state = optimizer.update(gradient, opt_state)
        return ({"params": optax.apply_updates(variables["params"], delta), **updates}, opt_state), loss

    def probabilities(state, images):
        return jax.nn.softmax(model.apply(state[0], images, train=False))

    # Every leaf of `states` has a first axis of length `members`; each member sees its own batches.
    states = jax.jit(jax.vmap(init))(jax.random.split(jax.random.key(0), members))
    step_all = jax.jit(jax.vmap(step), donate_argnums=0)
    rng = np.random.default_rng(0)
    for i in range(steps):
        chosen = rng.integers(held_out, len(images), (members, batch_size))
        states, losses = step_all(states, images[chosen], labels[chosen])
        if (i + 1) % 50 == 0:
            print(f"step {i + 1:>4}  losses {np.array2string(np.asarray(losses), precision=3)}")

    votes = jax.jit(jax.vmap(probabilities, in_axes=(0, None)))(states, images[:held_out])  # (members, 360, 10)
    right = lambda p: float(jnp.mean(jnp.argmax(p, axis=-1) == labels[:held_out]))
    singles, together = [right(p) for p in votes], right(votes.mean(axis=0))
    print("members ", "  ".join(f"{100 * accuracy:.2f} %" for accuracy in singles))
    print(f"together {100 * together:.2f} %")
    return singles, together


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
