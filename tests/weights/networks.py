"""Arrays of networks, without the time and memory that real ones take."""

import jax
import numpy as np

from resnet_jax.models import variable_shapes


def shapes_only(module):
    """The state dictionary of a network that owns no memory, as arrays that own none either."""
    return {key: np.broadcast_to(np.float32(0), tensor.shape) for key, tensor in module.state_dict().items()}


def random_state_dict(module, seed=0):
    generator = np.random.default_rng(seed)
    return {
        key: np.int64(generator.integers(1, 1000))
        if key.endswith("num_batches_tracked")
        else generator.normal(size=tensor.shape).astype(np.float32)
        for key, tensor in module.state_dict().items()
    }


def random_variables(model, channels=3, image=(64, 64), seed=1):
    """Faster than `init`, which compiles; scaled so that the network computes finite numbers."""
    shapes, rng = variable_shapes(model, channels=channels, sides=image), np.random.default_rng(seed)

    def draw(path, leaf):
        numbers = rng.normal(size=leaf.shape) * (2 / np.prod(leaf.shape[:-1])) ** 0.5
        return (np.abs(numbers) + 0.5 if path[-1].key == "var" else numbers).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def calm(variables):
    """Smaller scales. With `random_variables` alone the numbers of a deep network grow up to 1e71, and the rounding of
    one of them beyond any bound."""
    smaller = lambda path, leaf: leaf * np.float32(0.3) if path[-1].key == "scale" else leaf
    return jax.tree_util.tree_map_with_path(smaller, variables)
