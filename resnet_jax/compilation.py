"""Compiled programs, remembered from run to run."""

import os
from pathlib import Path

import jax


def remember_programs() -> None:
    """Lets JAX keep compiled programs in the user's cache directory, unless it was told where to keep them.

    A program is used again only by the same code on the same kind of devices with the same version of XLA.
    """
    if not jax.config.values["jax_compilation_cache_dir"]:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "resnet_jax" / "programs"))
