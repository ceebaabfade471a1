"""Weights that become zero while a network trains, as a part of the optimizer (Zhu & Gupta 2017, arXiv:1710.01878).

The masks lie in the optimizer's state, so that a run that is continued has them. A masked weight gets no gradient, is
exactly zero after every update, and stays so.
"""

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from resnet_jax.config.prune import Prune
from resnet_jax.errors import ConfigError
from resnet_jax.survival.digests import by_name


@dataclass(frozen=True)
class Ramp:
    """When weights are chosen, and how many.

    Attributes:
      updates: the numbers of the updates after which weights are chosen, rising.
      shares: the share of the weights that are zero then.
    """

    updates: tuple[int, ...]
    shares: tuple[float, ...]


def ramp_of(prune: Prune, begin: int, end: int) -> Ramp:
    """The share after update t is `last + (first - last) * (1 - (t - begin) / (end - begin)) ** 3` (Zhu & Gupta 2017,
    section 3), at each `every_steps`-th update from `begin` on, and at `end`.

    Args:
      begin, end: `begin_epoch` and `end_epoch` in updates.
    """
    end = max(end, 1)
    if prune.pattern == "2:4":
        return Ramp((end,), (prune.sparsity,))
    updates = sorted({*range(begin, end, prune.every_steps), end} - {0})
    left = [(end - t) / max(end - begin, 1) for t in updates]
    return Ramp(
        tuple(updates), tuple(prune.sparsity + (prune.first_sparsity - prune.sparsity) * share**3 for share in left)
    )


class Masks(NamedTuple):
    """Attributes:
    updates: how many there were so far.
    of: for each weight of a kernel that is pruned, whether it stays; None in place of other parameters.
    """

    updates: Int[Array, ""]
    of: PyTree[Bool[Array, "..."]]


class SparseState(NamedTuple):
    masks: Masks
    rule: optax.OptState


def sparse(rule: optax.GradientTransformation, prune: Prune, ramp: Ramp) -> optax.GradientTransformation:
    """`rule` for the weights that are left, and zero for the others."""

    def init(params: PyTree[Array]) -> SparseState:
        pruned = is_pruned(params, prune)
        if not any(jax.tree.leaves(pruned)):
            raise ConfigError(
                "optim.prune: no kernel loses weights, since all are frozen, named by optim.prune.keep, or (with the "
                "pattern 2:4) have no multiple of four input channels; set optim.prune.sparsity to 0, or train others"
            )
        masks = jax.tree.map(lambda leaf, chosen: jnp.ones(leaf.shape, bool) if chosen else None, params, pruned)
        return SparseState(Masks(jnp.zeros((), jnp.int32), masks), rule.init(params))

    def update(grads: PyTree[Array], state: SparseState, params: PyTree[Array]) -> tuple[PyTree[Array], SparseState]:
        before = state.masks.of
        updates, inner = rule.update(with_zeros(before, grads), state.rule, params)
        count = state.masks.updates + 1
        moved = with_zeros(before, optax.apply_updates(params, updates))
        place = jnp.minimum(jnp.searchsorted(jnp.asarray(ramp.updates), count), len(ramp.updates) - 1)
        masks = jax.lax.cond(
            jnp.asarray(ramp.updates)[place] == count,
            lambda: _chosen(before, moved, prune, ramp, place),
            lambda: before,
        )
        # Adding its negative makes a weight exactly zero.
        updates = _where(masks, updates, jax.tree.map(jnp.negative, params))
        return updates, SparseState(Masks(count, masks), inner)

    return optax.GradientTransformation(init, update)


def is_pruned(params: PyTree[Any], prune: Prune) -> PyTree[bool]:
    """For each parameter, whether it is a kernel that loses weights."""

    def chosen(path: Any, leaf: Any) -> bool:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.rpartition("/")[2] != "kernel" or any(re.search(pattern, name) for pattern in prune.keep):
            return False
        return prune.pattern == "any" or leaf.shape[-2] % 4 == 0

    return jax.tree_util.tree_map_with_path(chosen, params)


def with_zeros(masks: PyTree[Array], tree: PyTree[Array]) -> PyTree[Array]:
    """The arrays, such as gradients or averages, with zeros for the weights that are masked."""
    return _where(masks, tree, jax.tree.map(jnp.zeros_like, tree))


def masks_in(opt_state: optax.OptState) -> PyTree[Array] | None:
    """The masks of an optimizer's state; None if nothing is pruned."""
    return opt_state.masks.of if isinstance(opt_state, SparseState) else None


def share_of_zeros(masks: PyTree[Array]) -> Float[Array, ""]:
    """Of all weights of the kernels that are pruned."""
    leaves = jax.tree.leaves(masks)
    return 1 - sum(jnp.sum(mask, dtype=jnp.float32) for mask in leaves) / sum(mask.size for mask in leaves)


def zeros_by_layer(params: PyTree[Array], masks: PyTree[Array]) -> dict[str, float]:
    """The share of the weights that are zero, as they are, of each kernel that is pruned, and of `all` together."""
    kernels = {name: np.asarray(leaf) for name, leaf in by_name(params).items() if name in by_name(masks)}
    zeros = {name: kernel.size - np.count_nonzero(kernel) for name, kernel in kernels.items()}
    shares = {name.removesuffix("/kernel"): zeros[name] / kernel.size for name, kernel in kernels.items()}
    return {"all": sum(zeros.values()) / sum(kernel.size for kernel in kernels.values()), **shares}


def _where(masks: PyTree[Array], kept: PyTree[Array], other: PyTree[Array]) -> PyTree[Array]:
    def choose(mask: Any, a: Any, b: Any) -> Any:
        return a if mask is None else jnp.where(mask, a, b)

    return jax.tree.map(choose, masks, kept, other, is_leaf=lambda leaf: leaf is None)


def _chosen(before: PyTree[Array], params: PyTree[Array], prune: Prune, ramp: Ramp, place: Int[Array, ""]) -> PyTree:
    """The masks after update number `place` of the ramp."""
    masks, structure = jax.tree.flatten(before)
    weights = [weight for mask, weight in zip(*_both(before, params), strict=True) if mask is not None]
    # What is masked comes before any weight, also before one that happens to be zero.
    sizes = [jnp.where(mask, jnp.abs(weight), -1) for mask, weight in zip(masks, weights, strict=True)]
    if prune.pattern == "2:4":
        chosen = [_of_four(size) for size in sizes]
    elif prune.scope == "global":
        flat = _largest(jnp.concatenate([size.reshape(-1) for size in sizes]), ramp, place)
        ends = np.cumsum([size.size for size in sizes])[:-1]
        pieces = jnp.split(flat, ends)
        chosen = [piece.reshape(size.shape) for piece, size in zip(pieces, sizes, strict=True)]
    else:
        chosen = [_largest(size.reshape(-1), ramp, place).reshape(size.shape) for size in sizes]
    return jax.tree.unflatten(structure, chosen)


def _both(masks: PyTree[Array], params: PyTree[Array]) -> tuple[list[Any], list[Any]]:
    is_none = lambda leaf: leaf is None
    return jax.tree.leaves(masks, is_leaf=is_none), jax.tree.leaves(params, is_leaf=is_none)


def _largest(sizes: Float[Array, " n"], ramp: Ramp, place: Int[Array, ""]) -> Bool[Array, " n"]:
    """All but the smallest; of equal ones the first go. Their number is rounded half up."""
    zeros = np.floor(np.array(ramp.shares) * sizes.size + 0.5).astype(np.int32)
    order = jnp.argsort(sizes, stable=True)
    ranks = jnp.zeros(sizes.size, jnp.int32).at[order].set(jnp.arange(sizes.size, dtype=jnp.int32))
    return ranks >= jnp.asarray(zeros)[place]


def _of_four(sizes: Float[Array, "*S I O"]) -> Bool[Array, "*S I O"]:
    """The two largest of each four consecutive input channels; of equal ones the last."""
    fours = sizes.reshape(*sizes.shape[:-2], -1, 4, sizes.shape[-1])
    ranks = jnp.argsort(jnp.argsort(fours, axis=-2, stable=True), axis=-2, stable=True)
    return (ranks >= 2).reshape(sizes.shape)
