"""From a published weight set to a file on disk. The file is fetched once and checked."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from rich.progress import Progress

from resnet_jax.errors import WeightsError
from resnet_jax.files import cache_folder
from resnet_jax.weights.catalog import WeightSet

_CHUNK_BYTES = 1 << 20
_ATTEMPTS = 3
_TIMEOUT_SECONDS = 30


def find_file(weights: WeightSet) -> Path:
    """The file of a published set: from the cache, else from torch's cache, else downloaded into the cache.

    Raises:
      WeightsError: the file is damaged, or cannot be found or downloaded; says which file to put where.
    """
    cached = cache_folder() / weights.file
    torch_home = Path(os.environ.get("TORCH_HOME") or Path.home() / ".cache" / "torch")
    for path in (cached, torch_home / "hub" / "checkpoints" / weights.file):
        if path.is_file():
            _verify(path, weights.sha256_start)
            return path
    download(weights.url, cached, weights.sha256_start)
    return cached


def download(url: str, path: Path, sha256_start: str) -> None:
    """Fetches `url` to `path`. The file appears there only when it is whole and right.

    If the connection breaks, the part that has arrived stays beside `path` as `NAME.part`, and the next call fetches
    the rest.

    Raises:
      WeightsError: no network, a refusal, or a file whose SHA-256 does not begin with `sha256_start`.
    """
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(part):
        if path.is_file():  # another process fetched it meanwhile
            return
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                _fetch(url, part)
                break
            except (OSError, HTTPException) as error:  # URLError and time-outs are OSErrors
                if attempt == _ATTEMPTS or isinstance(error, HTTPError):
                    raise WeightsError(
                        f"cannot download {url} ({error}). Where there is a network, fetch that file, and put it at "
                        f"{path} (its SHA-256 begins with {sha256_start})"
                    ) from error
        try:
            _verify(part, sha256_start)
        except WeightsError:
            part.unlink()
            raise
        os.replace(part, path)


def _fetch(url: str, part: Path) -> None:
    """Appends to `part` the rest of `url`. Raises OSError or HTTPException where the connection fails."""
    done = part.stat().st_size if part.exists() else 0
    request = Request(url, headers={"User-Agent": "resnet_jax", **({"Range": f"bytes={done}-"} if done else {})})
    try:
        response = urlopen(request, timeout=_TIMEOUT_SECONDS)
    except HTTPError as error:
        if error.code == 416 and done:  # nothing is left to fetch; the hash will say whether the file is right
            return
        raise
    expected = int(response.headers.get("Content-Length") or 0)
    received = 0
    # Status 206: the server sends only the rest. Otherwise it sends the whole file again.
    with response, part.open("ab" if response.status == 206 else "wb") as file, Progress(transient=True) as progress:
        task = progress.add_task(part.stem, total=expected or None)
        while chunk := response.read(_CHUNK_BYTES):
            file.write(chunk)
            received += len(chunk)
            progress.update(task, completed=received)
    if received < expected:
        raise ConnectionError(f"the connection broke after {received} of {expected} bytes")


def _verify(path: Path, sha256_start: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(sha256_start):
        raise WeightsError(
            f"{path} is damaged: its SHA-256 begins with {found[: len(sha256_start)]}, not {sha256_start}; "
            "delete it if it is still there and run this again to fetch it anew"
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Makes other processes that share the cache wait, such as the hosts of a pod with a common home."""
    with path.open("ab") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        except (ImportError, OSError):  # Windows, or a file system without locks: the hash still guards the result
            pass
        try:
            yield
        finally:
            if path.exists() and not path.stat().st_size:
                path.unlink()
