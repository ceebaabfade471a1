"""Images made small once, so that reading them costs very little. They are written here, and read as a source.

The folder has `info.json` and, for each split, `SPLIT-00000.array_record` and so on. A record is a header (label,
height, width, channels) and pixels. Where channels is 0, the bytes of an image file follow instead of pixels.
"""

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import simplejpeg
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from jaxtyping import Int

from resnet_jax.data.broken import BrokenImages
from resnet_jax.data.sources.base import Example, Source, check_labels, leaves_of, missing_leaves
from resnet_jax.data.transforms import decode, resize_short_side
from resnet_jax.errors import DataError, ImageError, unknown_name
from resnet_jax.files import write_atomically

INFO = "info.json"
VERSION = 1
PER_SHARD = 1000  # images; an interruption costs no more than these
_HEADER = struct.Struct("<iIIB")

Encoding = Literal["jpeg", "raw"]


class Records:
    """A split of a data set that `write_records` wrote.

    Args:
      exif: refuse photographs that are not upright.
    """

    def __init__(self, folder: Path, split: str, *, exif: bool = False) -> None:
        info = read_info(folder)
        if exif and not info.get("exif"):
            raise DataError(
                f"data.exif is set, and records:{folder} was written without --exif: how cameras were held is in it no "
                "more. Set data.exif = False, or run `data prepare ... --exif` into another folder"
            )
        self.splits: tuple[str, ...] = tuple(info["splits"])
        if split not in self.splits:
            raise DataError(unknown_name(f"complete split of records:{folder}", split, self.splits))
        self.class_names: tuple[str, ...] = tuple(info["class_names"])
        self._where = f"records:{folder}, split {split!r}"
        paths = [folder / name for name in info["splits"][split]["shards"]]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise DataError(
                f"{self._where} lacks {len(missing)} of its files, the first is {missing[0]}; all must be there. "
                "Copy them, or run `data prepare` again"
            )
        found = sum(count_records(path) for path in paths)
        self._records = ArrayRecordDataSource([str(path) for path in paths])
        if found != info["splits"][split]["count"]:
            raise DataError(
                f"{self._where} holds {found} records, but {folder / INFO} says "
                f"{info['splits'][split]['count']}; they must agree. Run `data prepare` again, into an empty folder"
            )

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        try:
            record = self._records[index]
        except (RuntimeError, ValueError) as error:
            raise ImageError(
                f"cannot read example {index} of {self._where}: {str(error).splitlines()[0]}. Run `data prepare` again"
            ) from error
        label, height, width, channels = _HEADER.unpack_from(record)
        if not 0 <= label < len(self.class_names):
            raise DataError(
                f"example {index} of {self._where} has label {label}, and {INFO} names {len(self.class_names)} "
                "classes: these files are not of one preparation. Run `data prepare` again, into an empty folder"
            )
        image: Any
        if channels:
            # A view of the record: a crop does not read most of the pixels.
            pixels = np.frombuffer(record, np.uint8, offset=_HEADER.size)
            image = pixels.reshape(height, width, channels)
        else:
            image = record[_HEADER.size :]
        return {"image": image, "label": label, "name": f"example {index} of {self._where}"}

    def labels(self) -> Int[np.ndarray, " N"]:
        return np.array([_HEADER.unpack_from(self._records[i])[0] for i in range(len(self))])


def write_records(
    sources: dict[str, Source],
    folder: Path,
    *,
    short_side: int,
    encoding: Encoding = "jpeg",
    quality: int = 92,
    channels: int = 3,
    exif: bool = False,
    threads: int = 16,
    max_broken_fraction: float = 0.001,
    on_progress: Callable[[str, int], None] = lambda split, done: None,
) -> dict[str, int]:
    """Writes sources with their larger images resized to `short_side`, by the filter of evaluation.

    A shard is whole or absent, so the same call continues where an earlier call was interrupted.

    Args:
      sources: the splits by name.
      encoding: JPEG of `quality` (4:2:0), or pixels, which are larger and need no decoding.
      exif: turn photographs upright; records have no EXIF, so that they cannot be turned when they are read.
      on_progress: called with the split and how many of its images are done.
    Returns:
      How many images were left out of each split because they could not be read.
    Raises:
      DataError: examples without image or label, a folder made with other settings, more than `max_broken_fraction`
        unreadable images, or shards that do not hold as many images as were written.
    """
    for split, source in sources.items():
        if "video" in leaves_of(source):
            raise DataError(
                f"split {split!r} has videos, and records hold images; only the frames of a clip are decoded, so read "
                "the videos from where they are, without preparing them"
            )
        if text := missing_leaves(source, ("image", "label"), "data prepare", f"split {split!r}"):
            raise DataError(text)
    class_names = next(iter(sources.values())).class_names
    recipe = {
        "version": VERSION,
        "class_names": list(class_names),
        "short_side": short_side,
        "encoding": encoding,
        "quality": quality if encoding == "jpeg" else None,
        "channels": channels,
        "exif": exif or None,  # as in recipes from before there was a choice
        "images": {split: len(source) for split, source in sources.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    _check_recipe(folder, recipe)

    def encode(example: Example, name: str) -> bytes:
        image = decode(example["image"], channels, name=name, exif=exif)
        if min(image.shape[:2]) > short_side:
            image = resize_short_side(image, short_side)
        if encoding == "raw":
            return _HEADER.pack(example["label"], *image.shape) + image.tobytes()
        jpeg = simplejpeg.encode_jpeg(
            np.ascontiguousarray(image), quality, "GRAY" if channels == 1 else "RGB", "420" if channels == 3 else "Gray"
        )
        return _HEADER.pack(example["label"], *image.shape[:2], 0) + jpeg

    splits, left_out = {}, {}
    with ThreadPoolExecutor(threads) as pool:
        for split, source in sources.items():
            check_labels(source.labels(), class_names, f"split {split!r}")
            broken = BrokenImages(len(source), max_broken_fraction)

            def record(index: int, source: Source = source, broken: BrokenImages = broken) -> bytes | None:
                try:
                    example = source[index]
                    return encode(example, example.get("name", f"image {index}"))
                except ImageError as error:
                    broken.add(index, str(error))
                    return None

            shards = []
            for start in range(0, len(source), PER_SHARD):
                stop = min(start + PER_SHARD, len(source))
                shard = folder / f"{split}-{start // PER_SHARD:05}.array_record"
                if not shard.exists():
                    _write_shard(shard, _in_order(pool, record, range(start, stop), threads))
                shards.append(shard)
                on_progress(split, stop)
            counts = [count_records(shard) for shard in shards]
            left_out[split] = len(source) - sum(counts)
            broken.check(left_out[split])
            splits[split] = {"count": sum(counts), "shards": [shard.name for shard in shards]}
    write_atomically(folder / INFO, json.dumps({**recipe, "splits": splits}, indent=2) + "\n")
    return left_out


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[int], bytes | None], indices: Sequence[int], ahead: int
) -> Iterator[bytes]:
    """Results in order. At most a few more images than there are threads are worked on at the same time."""
    waiting = iter(indices)
    running = [pool.submit(work, index) for index in islice(waiting, 2 * ahead)]
    while running:
        result = running.pop(0).result()
        running += [pool.submit(work, index) for index in islice(waiting, 1)]
        if result is not None:
            yield result


def _write_shard(path: Path, records: Iterator[bytes]) -> None:
    partial = path.with_name(f"{path.name}.partial")
    # One record per chunk, so that each is read alone. Pixels and JPEGs would gain little from compression.
    writer = ArrayRecordWriter(str(partial), "group_size:1,uncompressed")
    written = 0
    try:
        for record in records:
            writer.write(record)
            written += 1
    finally:
        writer.close()
    if count_records(partial) != written:
        raise DataError(
            f"{partial} holds {count_records(partial)} of {written} records; is the disk full? Prepare again"
        )
    partial.replace(path)


def count_records(shard: Path) -> int:
    """How many records a file has. Raises a DataError for a file that is missing or damaged."""
    try:
        reader = ArrayRecordReader(str(shard))
        count = reader.num_records()
        reader.close()
    except (RuntimeError, ValueError) as error:
        raise DataError(
            f"cannot read {shard}: {str(error).splitlines()[0]}; shards must be whole. Delete it, and prepare again"
        ) from error
    return count


def _check_recipe(folder: Path, recipe: dict[str, Any]) -> None:
    path = folder / "recipe.json"
    if not path.exists():
        write_atomically(path, json.dumps(recipe, indent=2) + "\n")
        return
    try:
        before = dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}). Empty {folder}, and prepare again") from error
    different = [
        f"{key}: {before.get(key)!r} before, {recipe[key]!r} now" for key in recipe if before.get(key) != recipe[key]
    ]
    if different:
        raise DataError(
            f"{folder} was begun with other settings ({'; '.join(different)}); its images must all be made alike. "
            "Choose another folder, or empty this one"
        )


def read_info(folder: Path) -> dict[str, Any]:
    """The description of a data set that `write_records` wrote: `class_names`, `splits` and how it was made."""
    path = folder / INFO
    if not path.is_file():
        raise DataError(
            f"{folder} holds no finished records: there is no {path}. Correct `records:PATH`, or make them with: "
            f"python -m resnet_jax data prepare folder DIR --out {folder}"
        )
    damaged = f"{path} is damaged: it is not what `data prepare` writes. Prepare the data again"
    try:
        info = json.loads(path.read_text())
        version = info.get("version")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(damaged) from error
    if version != VERSION:
        raise DataError(f"{path} has version {version}; this program reads version {VERSION}. Prepare the data again")
    try:
        whole = all({"count", "shards"} <= split.keys() for split in info["splits"].values()) and info["class_names"]
    except (KeyError, AttributeError) as error:
        raise DataError(damaged) from error
    if not whole:
        raise DataError(damaged)
    return info
