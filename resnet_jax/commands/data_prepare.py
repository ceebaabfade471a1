"""`python -m resnet_jax data prepare NAME ...`"""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional


def data_prepare(
    name: Positional[str],
    folder: Positional[Path | None] = None,
    directory: str | None = None,
    manual_dir: Path | None = None,
    out: Path | None = None,
    short_side: int = 0,
    encoding: Literal["jpeg", "raw"] = "jpeg",
    quality: int = 92,
    channels: Literal[1, 3] = 3,
    exif: bool = False,
    format: Literal["array_record"] = "array_record",
    splits: tuple[str, ...] = (),
    threads: int = 16,
    max_broken_fraction: float = 0.001,
) -> None:
    """Build a TFDS data set, or make the images of any data set small once, so that reading them costs little.

    `data prepare imagenet2012 --manual-dir ~/Downloads` builds the data set that TFDS knows by that name; it needs the
    extra `tfds`. `data prepare folder DIR --short-side 256 --out SMALL` rewrites a folder of images, and
    `data prepare tfds:imagenet2012 --short-side 256 --out SMALL` any other data set. The result is read as
    `records:SMALL`. After an interruption, the same command continues where it stopped.

    Args:
        name: A data set of TFDS to build, or `folder` and its path, or a name as in a config.
        folder: With `folder`: the path, which holds SPLIT/CLASS/*.jpg.
        directory: Where TFDS data lives; by default TFDS_DATA_DIR or ~/tensorflow_datasets.
        manual_dir: Folder of the files that TFDS cannot fetch by itself, such as ImageNet's archives.
        out: The folder to write records to.
        short_side: Larger images are resized to this many pixels on the shorter side.
        encoding: `jpeg`: smaller JPEGs; `raw`: pixels, which are several times as large and need no decoding.
        quality: Quality of the JPEGs, up to 100.
        channels: 1 to make the images grey.
        exif: Turn photographs upright, as EXIF says how the camera was held; records have no EXIF.
        format: Format of the files that are written.
        splits: Which splits to rewrite; by default all.
        threads: Number of threads that decode and encode.
        max_broken_fraction: Unreadable images are left out, up to this fraction of a split.
    """
    from resnet_jax.errors import DataError

    if name == "folder" and folder is None:
        raise DataError("`data prepare folder` needs the folder's path: data prepare folder DIR --short-side 256 ...")
    source = f"folder:{folder}" if name == "folder" else name
    rewrites = short_side > 0
    if not rewrites and (out or name == "folder"):
        raise DataError("--short-side must say how small to make images, such as --short-side 256; it is not given")
    if rewrites and out is None:
        raise DataError("--out must name the folder to write the records to; it is not given")
    if rewrites and out is not None:
        if not 1 <= quality <= 100 or threads < 1:
            raise DataError(f"--quality = {quality} must be in 1..100, and --threads = {threads} at least 1")
        _rewrite(
            *(source, directory, out, splits, short_side, encoding, quality, channels, exif, threads),
            max_broken_fraction,
        )
    else:
        from resnet_jax.data.sources.tfds import build

        print(f"Prepared in {build(source.removeprefix('tfds:'), directory, manual_dir, format)}")


def _rewrite(
    name: str,
    directory: str | None,
    out: Path,
    splits: tuple[str, ...],
    short_side: int,
    encoding: Literal["jpeg", "raw"],
    quality: int,
    channels: int,
    exif: bool,
    threads: int,
    max_broken_fraction: float,
) -> None:
    from rich.progress import Progress

    from resnet_jax.config import DataConfig
    from resnet_jax.data.sources import list_splits, load_source, write_records

    config = DataConfig(name=name, directory=directory)
    chosen = splits or tuple(list_splits(config))
    sources = {split: load_source(config, split) for split in chosen}
    with Progress() as progress:
        tasks = {split: progress.add_task(split, total=len(source)) for split, source in sources.items()}
        left_out = write_records(
            sources,
            out,
            short_side=short_side,
            encoding=encoding,
            quality=quality,
            channels=channels,
            exif=exif,
            threads=threads,
            max_broken_fraction=max_broken_fraction,
            on_progress=lambda split, done: progress.update(tasks[split], completed=done),
        )
    for split, source in sources.items():
        print(f"{split}: {len(source) - left_out[split]:,} images, {left_out[split]:,} left out as unreadable")
    print(f"Use them as --data.name records:{out}")
