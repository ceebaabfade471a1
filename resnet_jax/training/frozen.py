"""Groups of parameters: those that are not trained, and those with a rate or a decay of their own.

A tree is parted into two trees of the same structure. In each, None stands for the leaves of the other. JAX takes None
for a branch without leaves. So gradients, the optimizer's state and averages have no entry for frozen parameters.
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
"""For each parameter, whether it is trained."""


def partition(tree: PyTree[Array], trained: Trained) -> tuple[PyTree[Array], PyTree[Array]]:
    """The trained part and the frozen part of a tree."""
    return (
        jax.tree.map(lambda leaf, is_trained: leaf if is_trained else None, tree, trained),
        jax.tree.map(lambda leaf, is_trained: None if is_trained else leaf, tree, trained),
    )


def belonging_to(tree: PyTree[Any], names: frozenset[str], others: frozenset[str] = frozenset()) -> PyTree[bool]:
    """For each array in a tree such as the optimizer's state, whether it is that of one of these parameters. A scalar
    belongs to none.

    Args:
      others: further parameters. `layer1_0/bn1/scale` ends with the name of another parameter, `bn1/scale`.
    """

    def belongs(path: Any, leaf: Any) -> bool:
        # An optimizer keeps its arrays under its own path and the parameter's: `0/mu/fc/kernel` ends with `fc/kernel`.
        parts = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        ends = ("/".join(parts[i:]) for i in range(len(parts)))  # the longest first
        name = next((end for end in ends if end in names or end in others), None)
        return bool(getattr(leaf, "ndim", 0)) and name in names

    return jax.tree_util.tree_map_with_path(belongs, tree)


def combine(first: PyTree[Array], second: PyTree[Array]) -> PyTree[Array]:
    """The tree from its two parts: a leaf of `second` wherever `first` has None."""
    return jax.tree.map(lambda a, b: b if a is None else a, first, second, is_leaf=lambda leaf: leaf is None)


def group_of(params: PyTree[Any], groups: Sequence[Group]) -> PyTree[int]:
    """For each parameter, the number of its group; -1 = none."""
    numbers = [(_claims(name, groups) or [-1])[0] for name, _ in _by_name(params)]
    return jax.tree.unflatten(jax.tree.structure(params), numbers)


def trained_of(params: PyTree[Any], groups: Sequence[Group]) -> Trained:
    """For each parameter, whether it is trained: whether it is in no group of rate 0."""
    return jax.tree.map(lambda i: i < 0 or bool(groups[i].rate), group_of(params, groups))


def frozen_names(params: PyTree[Any], groups: Sequence[Group]) -> frozenset[str]:
    """The paths of the parameters in groups of rate 0."""
    return frozenset(name for name, is_trained in _by_name(trained_of(params, groups)) if not is_trained)


def check_groups(params: PyTree[Any], groups: Sequence[Group]) -> None:
    """Refuses groups that must be mistakes.

    Raises:
      ConfigError: a group without a parameter, a parameter in two groups, or groups that leave nothing to train.
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


def moving_statistics(batch_stats: PyTree[Any], params: PyTree[Any], groups: Sequence[Group]) -> PyTree[bool]:
    """For each running statistic, whether it moves. It does not if its norm is among `fixed_modules`."""
    fixed = fixed_modules(params, groups)
    moves = [name.rpartition("/")[0] not in fixed for name, _ in _by_name(batch_stats)]
    return jax.tree.unflatten(jax.tree.structure(batch_stats), moves)


def fixed_modules(params: PyTree[Any], groups: Sequence[Group]) -> frozenset[str]:
    """The paths of the modules whose own parameters are all frozen, with fixed statistics: `layer1_0/bn1` and so on."""
    own: dict[str, list[bool]] = {}
    for name, i in _by_name(group_of(params, groups)):
        fixed = i >= 0 and not groups[i].rate and groups[i].statistics == "fixed"
        own.setdefault(name.rpartition("/")[0], []).append(fixed)
    return frozenset(module for module, parameters in own.items() if all(parameters))


@contextlib.contextmanager
def fixed_norms(modules: frozenset[str]) -> Iterator[None]:
    """Inside, the norms in these modules normalise with running statistics, and do not move them.

    Such a part does not depend on the batch. A norm is any module with the fields `use_batch_stats` and
    `update_stats`. Its path is that in the variables that `apply` gets.
    """

    def freeze(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        norm: Any = context.module
        if hasattr(norm, "use_batch_stats") and "/".join(norm.path) in modules:
            # flax offers no other way to change a field of a bound module. The module lives only for this one call.
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
