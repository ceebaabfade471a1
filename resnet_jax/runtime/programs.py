"""Compiled programs, remembered from run to run."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np

from resnet_jax.runtime.garbage import give_back

P = ParamSpec("P")
R = TypeVar("R")


def remember_programs() -> None:
    """Lets JAX keep compiled programs in the user's cache directory, unless it was told where to keep them.

    A program is used again only by the same code on the same kind of devices with the same version of XLA.
    """
    if not jax.config.values["jax_compilation_cache_dir"]:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "resnet_jax" / "programs"))


def shapes_of(tree: Any) -> tuple[tuple[int, ...], ...]:
    """The shapes of all arrays, which tell apart the programs of a jitted function."""
    return tuple(np.shape(leaf) for leaf in jax.tree.leaves(tree))


def tell_of_compiling(function: Callable[P, R], what: str, say: Callable[[str], None]) -> Callable[P, R]:
    """A jitted function that says, around its first call with a last argument of some shapes, that `what` is compiled,
    and how long that took."""
    known = set()

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        shapes = shapes_of(args[-1:])
        if shapes in known:
            return function(*args, **kwargs)
        known.add(shapes)
        say(f"compiling {what} ...")
        started = time.perf_counter()
        result = function(*args, **kwargs)  # returns when the program is compiled, while the device still computes
        give_back()
        say(f"compiled {what} in {time.perf_counter() - started:.1f} s")
        return result

    return call
