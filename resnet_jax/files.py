"""Where a run is kept: a folder on a disk, or in an object store (`gs://bucket/folder`). No crash leaves half a file.

An object store has no folders. Nothing can be appended to an object; it can only be put as a whole. So a file that
grows is put again as a whole.
"""

import contextlib
import glob
import importlib.util
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, Self

from etils import epath

from resnet_jax.errors import ConfigError, StorageError

log = logging.getLogger("resnet_jax")

SCHEMES = ("gs", "s3")
PUT_SECONDS = 60.0  # an object that grows is put again at most this often, and whenever it must be there


class _LiteralPath(type(epath.Path())):  # type: ignore[misc]
    """A local path in which `glob` takes the path's own characters literally.

    etils reads them as a pattern, and then Orbax finds nothing in a folder `lr[0.1]`.
    """

    def glob(self, pattern: str) -> Iterator[Self]:
        return (self._new(found) for found in glob.iglob(os.path.join(glob.escape(os.fspath(self)), pattern)))


def open_folder(path: epath.PathLike) -> epath.Path:
    """A path for a folder that may be remote. Nothing is made or looked up.

    Raises:
      ConfigError: a run's folder cannot have this name, or the folder is on `gs://` and the packages that reach Google
        Cloud Storage are not installed.
    """
    text = re.sub(r"^(gs|s3):/(?!/)", r"\1://", os.fspath(path))  # pathlib drops the second slash
    _check_name(text if is_remote(text) else os.path.abspath(text))
    if text.startswith("gs://"):
        if importlib.util.find_spec("gcsfs") is None:
            raise ConfigError(f"{text} needs the package gcsfs; install it with: pip install gcsfs")
        import fsspec.config

        # Without this, fsspec does not see files that others have put there since (TensorStore, another process).
        fsspec.config.conf.setdefault("gs", {})["use_listings_cache"] = False
    return epath.Path(text) if is_remote(text) else _LiteralPath(text)


def _check_name(text: str) -> None:
    scheme = text.partition("://")[0] if is_remote(text) else ""
    forbidden = "*?[]" if scheme else "\0" if os.name == "nt" else "\\\0"  # TensorStore reads \\ as /
    found = [character for character in forbidden if character in text]
    if scheme and scheme not in SCHEMES:
        reason = f"it is on {scheme}://; it must be a folder of this machine, or on {' or '.join(SCHEMES)}"
    elif found:
        reason = f"its name must not hold {' or '.join(map(repr, found))}, or the checkpoints in it could not be read"
    elif not _is_utf8(text):
        reason = "its name must be valid UTF-8, or the checkpoints in it could not be read"
    else:
        return
    raise ConfigError(f"{text!r} cannot be the folder of a run: {reason}. Choose another --workdir")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def cache_folder() -> Path:
    """`$RESNET_JAX_CACHE`, or else `resnet_jax` in the user's cache folder."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("RESNET_JAX_CACHE") or home / "resnet_jax")


def is_remote(path: epath.PathLike) -> bool:
    return "://" in os.fspath(path)


def write_atomically(path: epath.PathLike, content: str | bytes) -> None:
    """Replaces the file at `path` by one that holds `content`: whole or not at all, even if the machine dies meanwhile.

    Raises:
      StorageError: the disk is full, or the folder cannot be written to. The old file is unchanged.
    """
    content = content.encode() if isinstance(content, str) else content
    with explain_failed_write(path):
        if is_remote(path):
            epath.Path(path).write_bytes(content)
            return
        path = Path(path)
        partial = path.with_name(f"{path.name}.partial")
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise


def read_json(path: epath.Path) -> Any:
    """The content of a JSON file that a run wrote.

    Raises:
      StorageError: the file is missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise StorageError(
            f"{path} cannot be read: {error}. Bring back a copy of it, or train in another folder"
        ) from error


class GrowingFile(Protocol):
    """A file that grows. A full disk or a killed process never leaves half of a written part in it."""

    def write(self, content: bytes) -> None:
        """Adds `content`. If it cannot be written now (a `StorageError`), it is kept and written with the next call."""

    def sync(self) -> None:
        """Returns when everything is stored so that it survives a crash of the machine."""

    def close(self) -> None:
        """Closes the file."""


def open_growing(path: epath.Path, content: bytes) -> GrowingFile:
    """Replaces the file at `path` by one that holds `content` and can grow. Makes its folder.

    Raises:
      StorageError: the file cannot be written. Every method that writes raises it too.
    """
    with explain_failed_write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    return _GrowingObject(path, content) if is_remote(path) else _AppendedFile(Path(path))


class _AppendedFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        with explain_failed_write(path):
            self._file = path.open("ab", buffering=0)
        self._whole = path.stat().st_size
        self._unwritten = b""

    def write(self, content: bytes) -> None:
        self._unwritten += content
        written = 0
        with explain_failed_write(self._path):
            try:
                while written < len(self._unwritten):  # a nearly full disk may take only a part
                    written += self._file.write(self._unwritten[written:])
            except OSError:
                self._file.truncate(self._whole)  # no half lines: `_unwritten` still has everything
                raise
        self._whole += written
        self._unwritten = b""

    def sync(self) -> None:
        self.write(b"")
        with explain_failed_write(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


class _GrowingObject:
    def __init__(self, path: epath.Path, content: bytes) -> None:
        self._path, self._content = path, bytearray(content)
        self._put_bytes, self._put_at = len(content), time.monotonic()

    def write(self, content: bytes) -> None:
        self._content += content
        if time.monotonic() - self._put_at >= PUT_SECONDS:
            self.sync()

    def sync(self) -> None:
        if self._put_bytes < len(self._content):
            self._put_at = time.monotonic()
            write_atomically(self._path, bytes(self._content))
            self._put_bytes = len(self._content)

    def close(self) -> None:
        with contextlib.suppress(StorageError):
            self.sync()


@contextlib.contextmanager
def explain_failed_write(path: epath.PathLike) -> Iterator[None]:
    """Turns an error of a failed write into a `StorageError` that names `path` and the remedy."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        if not (isinstance(error, OSError) or is_remote(path)):  # the clients of object stores raise any kind of error
            raise
        raise StorageError(
            f"{path} could not be written: {getattr(error, 'strerror', None) or error}. What was written before is as "
            "it was; see that there is room and that the folder is writable, then run the same command again"
        ) from error


@contextlib.contextmanager
def forgive_failed_write(forgive: bool) -> Iterator[None]:
    """With `forgive`, logs a `StorageError` as a warning and goes on. Otherwise the error is raised."""
    try:
        yield
    except StorageError as error:
        if not forgive:
            raise
        log.warning("%s. Training goes on (checkpoint.on_error = continue)", error)
