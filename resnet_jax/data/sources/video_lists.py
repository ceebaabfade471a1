"""UCF101, HMDB51 and Kinetics: videos in folders, and lists that say which belong to a split."""

import csv
import logging
import re
from collections import Counter
from pathlib import Path

from resnet_jax.config import DataConfig
from resnet_jax.data.sources.base import read_names
from resnet_jax.data.sources.folder import folder_splits
from resnet_jax.data.sources.videos import VIDEO_SUFFIXES, Videos, videos_below
from resnet_jax.errors import DataError, unknown_name

log = logging.getLogger("resnet_jax")

OFFICIAL_SPLITS = ("train", "test", "train2", "test2", "train3", "test3")
"""Of UCF101 and HMDB51: each has three official divisions."""
_LISTED = Path("ucfTrainTestlist"), Path("testTrainMulti_7030_splits")
_COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")


def open_ucf101(root: Path, split: str, config: DataConfig) -> Videos:
    """`CLASS/v_CLASS_g01_c01.avi` in `root` or `root/UCF-101`, with the lists `trainlist01.txt` and so on, and
    `classInd.txt`, in `root` or `root/ucfTrainTestlist` (Soomro et al. 2012, arXiv:1212.0402).

    Raises:
      DataError: no such split, no list, or a list that names a file that is not there.
    """
    kind, number = _official(root, split, "ucf101")
    lists = _first([root / _LISTED[0], root], "classInd.txt", f"ucf101:{root}")
    videos = next((path for path in (root / "UCF-101", root / "UCF101") if path.is_dir()), root)
    classes = [line.split()[1] for line in read_names(lists / "classInd.txt") if line.strip()]
    path = lists / f"{kind}list0{number}.txt"
    names = [line.split()[0] for line in read_names(path) if line.strip()]
    if wrong := [name for name in names if name.partition("/")[0] not in classes]:
        raise DataError(f"{path} names {wrong[0]}, of a class that classInd.txt does not have; correct one of them")
    labels = [classes.index(name.partition("/")[0]) for name in names]
    return _listed([videos / name for name in names], labels, classes, OFFICIAL_SPLITS, str(path), config)


def open_hmdb51(root: Path, split: str, config: DataConfig) -> Videos:
    """`CLASS/*.avi` in `root`, `root/hmdb51_org` or `root/videos`, with the lists `CLASS_test_split1.txt` in `root`,
    `root/testTrainMulti_7030_splits` or `root/splits` (Kuehne et al. 2011). A line is a file's name and 1 for training,
    2 for the test, 0 for neither.

    Raises:
      DataError: as `open_ucf101`.
    """
    kind, number = _official(root, split, "hmdb51")
    pattern = f"*_test_split{number}.txt"
    lists = _first([root / _LISTED[1], root / "splits", root], pattern, f"hmdb51:{root}")
    videos = next((path for path in (root / "hmdb51_org", root / "videos") if path.is_dir()), root)
    files = sorted(lists.glob(pattern))
    classes = [file.name.removesuffix(pattern[1:]) for file in files]
    mark = {"train": "1", "test": "2"}[kind]
    paths, labels = [], []
    for label, (name, file) in enumerate(zip(classes, files, strict=True)):
        for words in map(str.split, read_names(file)):
            if words[1:] == [mark]:
                paths.append(videos / name / words[0])
                labels.append(label)
    return _listed(paths, labels, classes, OFFICIAL_SPLITS, f"{lists / pattern}", config)


def open_kinetics(root: Path, split: str, config: DataConfig) -> Videos:
    """Kinetics' lists `SPLIT.csv` in `root` or `root/annotations`, with the columns `label`, `youtube_id`,
    `time_start`, `time_end` and `split`, and files named `ID_000010_000020.mp4` or `ID.mp4` anywhere below
    `root/SPLIT`.

    Videos that are not there are counted and left out, since many have vanished from where they came from. The classes
    are the labels of all lists, sorted.

    Raises:
      DataError: no such split, a list without these columns, or no video of it.
    """
    lists = _csv_files(root)
    if split not in lists:
        raise DataError(unknown_name(f"split of kinetics:{root}", split, lists))
    rows = {name: _rows(path) for name, path in lists.items()}
    classes = sorted({row["label"] for each in rows.values() for row in each if row["label"]})
    below = root / split if (root / split).is_dir() else root
    files = {Path(path).stem: path for path in videos_below(below, root, Counter())}
    numbers = {name: number for number, name in enumerate(classes)}
    paths, labels, gone = [], [], 0
    for row in rows[split]:
        names = [_trimmed(row), row["youtube_id"]]
        path = next((files[name] for name in names if name in files), None)
        if path is None or not row["label"]:
            gone += 1
        else:
            paths.append(path)
            labels.append(numbers[row["label"]])
    if not paths:
        raise DataError(
            f"none of the {len(rows[split])} videos of {lists[split]} is below {below}; their files must be called "
            "ID_000010_000020.mp4 or ID.mp4. Move or rename them"
        )
    if gone:
        log.warning("of kinetics:%s, split %r, %d of %d videos are not there", root, split, gone, len(rows[split]))
    return Videos(paths, labels, classes, list(lists), config.clip.folder_rate)


def kinetics_splits(root: Path) -> list[str]:
    """The splits that have a list."""
    return list(_csv_files(root))


def _csv_files(root: Path) -> dict[str, Path]:
    folder_splits(root, "kinetics", "mp4")  # refuses what is no folder
    here = [path for folder in (root, root / "annotations") for path in sorted(folder.glob("*.csv"))]
    found = {re.sub(r"^kinetics[-_]?\d*[-_]", "", path.stem): path for path in here}
    if not found:
        raise DataError(
            f"kinetics:{root} has no list; there must be {root}/train.csv or {root}/annotations/train.csv. Correct the "
            "path, or put the lists there"
        )
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    rows = list(csv.DictReader(read_names(path)))
    if missing := [name for name in _COLUMNS if rows and name not in rows[0]]:
        raise DataError(f"{path} has no column {missing[0]!r}; its first line must be {','.join(_COLUMNS)}. Correct it")
    return rows


def _trimmed(row: dict[str, str]) -> str:
    try:
        start, end = (round(float(row[name])) for name in ("time_start", "time_end"))
    except ValueError:  # a list without times is of whole videos
        return row["youtube_id"]
    return f"{row['youtube_id']}_{start:06d}_{end:06d}"


def _official(root: Path, split: str, kind: str) -> tuple[str, str]:
    folder_splits(root, kind, "avi")
    if split not in OFFICIAL_SPLITS:
        raise DataError(unknown_name(f"split of {kind}:{root}", split, OFFICIAL_SPLITS))
    return split.rstrip("23"), split[-1] if split[-1].isdigit() else "1"


def _first(folders: list[Path], pattern: str, where: str) -> Path:
    for folder in folders:
        if any(folder.glob(pattern)):
            return folder
    raise DataError(
        f"{where} has no list {pattern} in {', '.join(map(str, folders))}; the official lists say which video belongs "
        "to which split. Put them there"
    )


def _listed(
    paths: list[Path], labels: list[int], classes: list[str], splits: tuple[str, ...], where: str, config: DataConfig
) -> Videos:
    """Videos of a list. Where files were converted, any ending of a video will do, and folders of frames."""
    found = [_with_any_ending(path) for path in paths]
    missing = [path for path, there in zip(paths, found, strict=True) if there is None]
    if missing or not paths:
        raise DataError(
            f"{len(missing)} of the {len(paths)} videos of {where} are not there, the first is "
            f"{missing[0] if missing else 'none, since it lists nothing'}; all must be. Restore them, or the list"
        )
    return Videos([str(path) for path in found], labels, classes, splits, config.clip.folder_rate)


def _with_any_ending(path: Path) -> Path | None:
    others = [path.with_suffix(""), *(path.with_suffix(ending) for ending in VIDEO_SUFFIXES)]
    return next((there for there in (path, *others) if there.exists()), None)
