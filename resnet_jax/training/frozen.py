"""Groups of parameters: those that are not trained, and those with a rate or a decay of their own.

A tree is parted into two of one structure, in each of which None stands for what is in the other. JAX takes None for a
branch without leaves, so gradients, the optimizer's state and averages of the trained part simply lack the rest.
"""

import contextlib
import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import jax
from flax import linen as nn
from jaxtyping import Array, PyTree

from resnet_jax.config.groups import Group
from resnet_jax.errors import ConfigError

Trained: TypeAlias = PyTree[bool]
"""Of each parameter, whether it is trained."""


def partition(tree: PyTree[Array], trained: Trained) -> tuple[PyTree[Array], PyTree[Array]]:
    """What is trained, and what is frozen."""
    return (
        jax.tree.map(lambda leaf, is_trained: leaf if is_trained else None, tree, trained),
        jax.tree.map(lambda leaf, is_trained: None if is_trained else leaf, tree, trained),
    )


def combine(first: PyTree[Array], second: PyTree[Array]) -> PyTree[Array]:
    """The tree that was parted: a leaf of `second` wherever `first` has None."""
    return jax.tree.map(lambda a, b: b if a is None else a, first, second, is_leaf=lambda leaf: leaf is None)


def group_of(params: PyTree[Any], groups: Sequence[Group]) -> PyTree[int]:
    """The number of the group that each parameter belongs to, -1 = none."""
    numbers = [(_claims(name, groups) or [-1])[0] for name, _ in _by_name(params)]
    return jax.tree.unflatten(jax.tree.structure(params), numbers)


def trained_of(params: PyTree[Any], groups: Sequence[Group]) -> Trained:
    """Whether each parameter is trained: not in a group of rate 0."""
    return jax.tree.map(lambda i: i < 0 or bool(groups[i].rate), group_of(params, groups))


def check_groups(params: PyTree[Any], groups: Sequence[Group]) -> None:
    """Refuses groups that cannot be meant.

    Raises:
      ConfigError: a group without a parameter, a parameter in two groups, or nothing that is trained.
    """
    claims = {name: _claims(name, groups) for name, _ in _by_name(params)}
    for i, group in enumerate(groups):
        if not any(i in claimed for claimed in claims.values()):
            near = difflib.get_close_matches(group.pattern, claims, n=3, cutoff=0.0)
            raise ConfigError(
                f"optim.groups: the pattern {group.pattern!r} is found in none of the {len(claims)} parameters; the "
                f"nearest are {', '.join(near)}. Correct the pattern, or leave the group out"
            )
    for name, claimed in claims.items():
        if len(claimed) > 1:
            both = " and ".join(repr(groups[i].pattern) for i in claimed[:2])
            raise ConfigError(
                f"optim.groups: the parameter {name} belongs to two groups, {both}; make the patterns exclude each "
                "other, such as by ^ and $"
            )
    if not any(jax.tree.leaves(trained_of(params, groups))):
        raise ConfigError(
            "optim.groups: all parameters are frozen (rate = 0), so there is nothing to train; leave some of them out"
        )


def trained_statistics(batch_stats: PyTree[Any], trained: Trained) -> PyTree[bool]:
    """Whether each running statistic moves: unless its norm has parameters and all of those are frozen."""
    frozen = frozen_modules(trained)
    moves = [name.rpartition("/")[0] not in frozen for name, _ in _by_name(batch_stats)]
    return jax.tree.unflatten(jax.tree.structure(batch_stats), moves)


def frozen_modules(trained: Trained) -> frozenset[str]:
    """The paths of the modules whose own parameters are all frozen, `layer1_0/bn1` and so on."""
    own: dict[str, list[bool]] = {}
    for name, is_trained in _by_name(trained):
        own.setdefault(name.rpartition("/")[0], []).append(is_trained)
    return frozenset(module for module, parameters in own.items() if not any(parameters))


@contextlib.contextmanager
def frozen_norms(modules: frozenset[str]) -> Iterator[None]:
    """Networks that are applied in here normalise with running statistics, and do not move them, in these modules.

    What is frozen must not depend on the batch. A norm is any module with the fields `use_batch_stats` and
    `update_stats`; its path is that in the variables that `apply` is given.
    """

    def freeze(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        norm: Any = context.module
        if hasattr(norm, "use_batch_stats") and "/".join(norm.path) in modules:
            # A module made for this one call; flax offers no other way to change a field of one that is bound.
            object.__setattr__(norm, "use_batch_stats", False)
            object.__setattr__(norm, "update_stats", False)
        return call(*args, **kwargs)

    with nn.intercept_methods(freeze) if modules else contextlib.nullcontext():
        yield


def _claims(name: str, groups: Sequence[Group]) -> list[int]:
    return [i for i, group in enumerate(groups) if re.search(group.pattern, name)]


def _by_name(tree: PyTree[Any]) -> list[tuple[str, Any]]:
    leaves = jax.tree.leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]
