"""Writing files so that a crash leaves the old one or the new one. Standard library only."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from resnet_jax.errors import StorageError

log = logging.getLogger("resnet_jax")


def write_atomically(path: Path, text: str) -> None:
    """Replaces the file at `path` by one that holds `text`, whole or not at all, also where the machine dies.

    Raises:
      StorageError: the disk is full, or the folder cannot be written to; the old file is as it was.
    """
    partial = path.with_name(f"{path.name}.partial")
    with explain_failed_write(path):
        try:
            with partial.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise


@contextlib.contextmanager
def explain_failed_write(path: Path | str) -> Iterator[None]:
    """Turns what the system says about a failed write into a `StorageError` that names `path` and the remedy."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path} could not be written: {error.strerror or error}. What was written before is as it was; "
            "see that there is room and that the folder is writable, then run the same command again"
        ) from error


@contextlib.contextmanager
def forgive_failed_write(forgive: bool) -> Iterator[None]:
    """Says what a `StorageError` says and goes on, where that is asked for."""
    try:
        yield
    except StorageError as error:
        if not forgive:
            raise
        log.warning("%s. Training goes on (checkpoint.on_error = continue)", error)
