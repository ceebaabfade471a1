"""Weight files: `.safetensors` (without torch), `.pth` and `.pt` (with it), read strictly and without running code.

The first bytes of a file say what it is, not its name. Arrays are views of the mapped file, so reading costs no memory
until an array is used.
"""

import json
import mmap
import os
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import ml_dtypes
import numpy as np

from resnet_jax.errors import WeightsError
from resnet_jax.weights.families import ROOTS
from resnet_jax.weights.names import prefix_of_network
from resnet_jax.weights.narrowing import first_few

StateDict = dict[str, np.ndarray]

# Entries in which training programs save the network. A network under another name is recognised by its keys.
ENTRIES = ("state_dict", "model", "model_ema", "state_dict_ema")
# Additions to keys. DataParallel and exponential averages put `module.` in front; torch.compile puts `_orig_mod.`
# wherever it was applied. torch's AveragedModel keeps its counter beside the network's keys.
_WRAPPED, _COMPILED, _NOT_WEIGHTS = "module.", "_orig_mod.", "n_averaged"
_SHARD = re.compile(r"-(\d+)-of-(\d+)\b")

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def read_state_dict(path: str | Path, *, entry: str | None = None, prefix: str | None = None) -> StateDict:
    """Reads a weight file as `{key: array}`, with PyTorch's keys.

    Args:
      path: a `.safetensors`, `.pth` or `.pt` file: a state dictionary, or a training checkpoint around one.
      entry: the part of a checkpoint to take where it holds several, such as `"model_ema"`.
      prefix: take only the keys that begin with it, such as `"module.encoder_q."`, and remove it from them. By default
        a prefix of all keys that the network's own keys do not have is removed.

    Raises:
      WeightsError: the file does not exist, is empty, truncated, a web page, or a pickle that wants to run code; it
        holds no state dictionary or several; or it needs torch, which is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"there is no file {path}; check the path")
    if (part := _SHARD.search(path.name)) and int(part[2]) > 1:
        raise WeightsError(
            f"{path} is one of {int(part[2])} parts of a network, says its name; a network is read from one file. Load "
            "all parts where they were made, and save the state dictionary as one"
        )
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise WeightsError(f"{path} is empty; the download failed, fetch it again")
    if start.lstrip()[:1] == b"<":
        raise WeightsError(
            f"{path} is a web page, not weights (it starts with {start.strip()[:20].decode(errors='replace')!r}); "
            "download the file itself, often by a link named 'raw' or 'resolve'"
        )
    if start.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path} is a Git LFS pointer, not the weights themselves; run `git lfs pull`")
    if start[:2] == b"PK" or start[:1] == b"\x80":
        if path.suffix == ".safetensors":
            raise WeightsError(f"{path} is a PyTorch file in spite of its name; rename it to end in .pth")
        return _find_network(_read_torch(path), path, entry, prefix)
    if start[8:9] == b"{":
        return _find_network(_read_safetensors(path), path, entry, prefix)
    raise WeightsError(
        f"{path} is neither a safetensors nor a PyTorch file (it starts with {start[:8]!r}); it may be damaged, "
        "fetch it again"
    )


def write_state_dict(path: str | Path, state_dict: Mapping[str, np.ndarray]) -> None:
    """Writes `{key: array}` as `.safetensors`, or as `.pth` / `.pt` (needs torch). The file appears whole or not at
    all.

    Raises:
      WeightsError: another ending, or torch is needed and not installed.
    """
    path = Path(path)
    check_target(path)
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import save_file

            arrays = {key: np.asarray(array, order="C") for key, array in state_dict.items()}
            save_file(arrays, temporary, {"format": "pt"})
        else:
            _import_torch(f"to write {path.name}").save(to_tensors(state_dict), temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_target(path: Path) -> None:
    """Raises a WeightsError for a file that cannot be written. Call it before the work that makes the content."""
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise WeightsError(f"{path} must end in .safetensors, .pth or .pt, which says how to write it")
    if not path.parent.is_dir():
        raise WeightsError(f"there is no folder {path.parent} to write {path.name} into; make it, or correct the path")


def to_tensors(state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The arrays as torch tensors, for `module.load_state_dict(...)`.

    Raises:
      WeightsError: torch is not installed.
    """
    torch = _import_torch("to make tensors")

    def tensor(array: np.ndarray) -> Any:
        if array.dtype == ml_dtypes.bfloat16:  # unknown to torch.from_numpy
            return torch.tensor(array.view(np.int16)).view(torch.bfloat16)
        return torch.tensor(array)

    return {key: tensor(array) for key, array in state_dict.items()}


def _read_safetensors(path: Path) -> StateDict:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy"):  # checks that the header is sound and that the arrays fill the file exactly
            pass
    except SafetensorError as error:
        raise WeightsError(f"{path} is damaged or cut short ({error}); fetch it again") from error
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    if odd := {key: info["dtype"] for key, info in header.items() if info["dtype"] not in _DTYPES}:
        raise WeightsError(f"{path} holds arrays of a type that no network here has: {odd}; convert it to float first")
    try:
        return {
            key: np.ndarray(info["shape"], _DTYPES[info["dtype"]], data, start + info["data_offsets"][0])
            for key, info in header.items()
        }
    except ValueError as error:  # a shape with a 0 in it, and another side that is too large for NumPy
        raise WeightsError(f"{path} is damaged ({error}); fetch it again") from error


def _read_torch(path: Path) -> Any:
    import argparse

    torch = _import_torch(f"to read {path.name}", remedy=", or convert it to .safetensors where it is")
    try:
        is_zip = zipfile.is_zipfile(path)  # since PyTorch 1.6; older files cannot be mapped
        if is_zip:
            _refuse_compressed(path)
        # The recipes of torchvision and timm save their command line, a plain argparse.Namespace, with the network.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error) or "Unsupported" in str(error):
            raise WeightsError(
                f"{path} was refused: besides numbers it holds code or objects to be run on loading, which is how a "
                "weight file attacks; nothing of it was run. If you trust its author, save its state_dict alone with "
                f"torch, or ask for .safetensors. ({_first_line(error)})"
            ) from error
        raise WeightsError(f"{path} is damaged or no PyTorch file ({_first_line(error)}); fetch it again") from error
    except WeightsError:
        raise
    except Exception as error:  # a pickle of random bytes can end in any of Python's errors
        raise WeightsError(f"{path} is damaged or cut short ({_first_line(error)}); fetch it again") from error


def _refuse_compressed(path: Path) -> None:
    """Refuses compression: a few bytes may expand to more than the memory holds. PyTorch does not compress."""
    with zipfile.ZipFile(path) as file:
        if compressed := [info.filename for info in file.infolist() if info.compress_type != zipfile.ZIP_STORED]:
            raise WeightsError(
                f"{path} was refused: {compressed[0]} in it is compressed, which no PyTorch file is; it may be made to "
                "exhaust the memory. Save it anew with torch, or ask for .safetensors"
            )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _find_network(content: Any, path: Path, entry: str | None, prefix: str | None) -> StateDict:
    """The state dictionary in the content of a file, as arrays, without `prefix` and without prefixes of wrappers."""
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{path} holds a {type(content).__name__}, not a state dictionary; save `model.state_dict()` instead"
        )
    entries = [
        name
        for name, part in content.items()
        if isinstance(name, str) and isinstance(part, Mapping) and (name in ENTRIES or _holds_network(part))
    ]
    if entry is not None:
        if entry not in content or not isinstance(content[entry], Mapping):
            raise WeightsError(f"{path} has no state dictionary in {entry!r}; it has {first_few(entries or content)}")
        content = content[entry]
    elif len(entries) > 1:
        raise WeightsError(
            f"{path} holds several networks, {first_few(entries)}; say which: entry={entries[-1]!r}, or "
            f"--entry {entries[-1]}"
        )
    elif entries:
        content = content[entries[0]]
    if odd := [key for key in content if not isinstance(key, str)]:
        raise WeightsError(f"{path} is no state dictionary: its keys must be names, and {odd[0]!r} is none")
    content = {
        key.replace(_COMPILED, ""): value for key, value in content.items() if key.split(".")[-1] != _NOT_WEIGHTS
    }
    while content and all(key.startswith(_WRAPPED) for key in content):
        content = {key.removeprefix(_WRAPPED): value for key, value in content.items()}
        prefix = prefix and prefix.removeprefix(_WRAPPED)
    prefix = _common_prefix(content) if prefix is None else prefix and f"{prefix.removesuffix('.')}."
    under = {key.removeprefix(prefix): value for key, value in content.items() if key.startswith(prefix)}
    if content and not under:
        there = sorted({p for key in content if (p := prefix_of_network(key))}) or content
        raise WeightsError(f"{path} has no key that starts with {prefix!r}; there is {first_few(there)}")
    content = under
    found = {key: value if isinstance(value, np.ndarray) else _to_array(value) for key, value in content.items()}
    arrays = {key: array for key, array in found.items() if array is not None}
    if not arrays or len(arrays) < len(found):
        others = [key for key in found if key not in arrays]
        raise WeightsError(
            f"{path} is no state dictionary: {f'{first_few(others)} are not arrays' if others else 'it is empty'}; "
            "save `model.state_dict()` by itself, or under 'state_dict' or 'model'"
        )
    if large := [key for key, array in arrays.items() if array.nbytes > path.stat().st_size]:
        raise WeightsError(
            f"{path} was refused: it claims arrays larger than the file: {first_few(large)}; they would be views of "
            "a few numbers, which no network saves and which may exhaust the memory"
        )
    return arrays


def _holds_network(part: Mapping[Any, Any]) -> bool:
    """Whether a part of a checkpoint is the state dictionary of a network."""
    return any(isinstance(key, str) and prefix_of_network(key) is not None for key in part)


def _common_prefix(keys: Iterable[str]) -> str:
    """The prefix of every key of a network. Empty if there is none, or if there are keys without it."""
    prefixes = [prefix for key in keys if (prefix := prefix_of_network(key)) is not None]
    shortest = min(prefixes, key=len, default="")
    # The backbone of a network for segmentation has a prefix of its own, which the rest of the network has not.
    possible = (shortest, *(shortest.removesuffix(f"{root}.") for root in ROOTS))
    return next((prefix for prefix in possible if all(key.startswith(prefix) for key in keys)), "")


def _to_array(value: Any) -> np.ndarray | None:
    """A torch tensor as an array that shares its memory; None for anything else."""
    import torch

    if not isinstance(value, torch.Tensor) or value.is_quantized or value.layout != torch.strided:
        return None
    value = value.detach()
    try:
        if value.dtype == torch.bfloat16:
            return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return value.numpy()
    except (TypeError, RuntimeError):  # a type that NumPy lacks, or a tensor without data
        return None


def _import_torch(purpose: str, remedy: str = "") -> Any:
    try:
        import torch
    except ImportError as error:
        raise WeightsError(f"torch is needed {purpose}; install it with `pip install torch`{remedy}") from error
    return torch
