"""Video files and folders of frames, as `SPLIT/CLASS/*.mp4`."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from resnet_jax.config import DataConfig
from resnet_jax.data.sources.base import Example, check_same_classes
from resnet_jax.data.sources.folder import endings, folder_splits, is_data, is_image, list_folders, walk
from resnet_jax.data.video.base import Video
from resnet_jax.data.video.file import VideoFile
from resnet_jax.data.video.frames import FrameFolder
from resnet_jax.errors import DataError, ImageError, unknown_name

log = logging.getLogger("resnet_jax")

VIDEO_SUFFIXES = (
    *(".mp4", ".avi", ".mkv", ".webm", ".gif", ".mov", ".m4v"),
    *(".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp", ".ogv"),
)


class Videos:
    """Videos by their paths. They are opened when they are read.

    Args:
      paths: of files, or of folders of frames.
      labels: of the videos.
      rate: frames per second of folders of frames.
    """

    leaves = ("video", "label")

    def __init__(
        self,
        paths: Sequence[str],
        labels: Sequence[int],
        class_names: Sequence[str],
        splits: Sequence[str],
        rate: float,
    ) -> None:
        self.class_names, self.splits = tuple(class_names), tuple(splits)
        self._paths, self._labels, self._rate = list(paths), np.array(labels, int), rate

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Example:
        path = self._paths[index]
        return {"video": open_path(path, self._rate), "label": int(self._labels[index]), "name": path}

    def labels(self) -> Int[np.ndarray, " N"]:
        return self._labels


def open_path(path: str, rate: float) -> Video:
    """A video file, or a folder of frames.

    Raises:
      ImageError: a folder that cannot be listed, or holds no image.
    """
    if not os.path.isdir(path):
        return VideoFile(path)
    try:
        files = [name for name in os.listdir(path) if is_frame(name)]
    except OSError as error:
        raise ImageError(f"cannot list {path}: {error.strerror}; it must be readable. Change or remove it") from error
    if not files:
        raise ImageError(f"{path} holds no image; a folder of frames must hold some. Fill or remove it")
    return FrameFolder(path, files, rate)


def open_videos(root: Path, split: str, config: DataConfig) -> Videos:
    """`root/SPLIT/CLASS/**/*.mp4`. A folder below a class that holds images is one video.

    Raises:
      DataError: no such split, a class without videos, or splits of other classes.
    """
    splits = folder_splits(root, "videos", "mp4")
    if split not in splits:
        raise DataError(unknown_name(f"split of videos:{root}", split, splits))
    names, left_out = list_folders(root / split), Counter[str]()
    others = {config.train_split, config.eval_split} if config.same_classes else set()
    existing = sorted((others & set(splits)) - {split})
    check_same_classes(str(root), {name: list_folders(root / name) for name in [split, *existing]})
    found = [videos_below(root / split / name, root, left_out) for name in names]
    empty = [name for name, paths in zip(names, found, strict=True) if not paths]
    if empty or not names:
        what = f"{len(empty)} class folders of {root / split} hold no video: {', '.join(empty)}"
        what = what if names else f"{root / split} holds no class folder"
        raise DataError(
            f"{what}; each class must have a folder with at least one file ending in {', '.join(VIDEO_SUFFIXES)}, or "
            f"with a folder of images for each video. Fill or remove them{endings(left_out)}"
        )
    if left_out:
        log.warning("of videos:%s, split %r, files that are no videos are not read%s", root, split, endings(left_out))
    labels = np.repeat(np.arange(len(names)), [len(paths) for paths in found])
    return Videos([path for paths in found for path in paths], labels.tolist(), names, splits, config.clip.folder_rate)


def videos_below(folder: Path, root: Path, left_out: Counter[str]) -> list[str]:
    """The video files under a folder and the folders of frames, sorted. `left_out` counts endings of other files."""
    found = []
    for at, names in walk(folder, root):
        names = [name for name in names if is_data(name)]
        videos = [os.path.join(at, name) for name in names if is_video(name)]
        if not videos and at != str(folder) and any(map(is_frame, names)):
            videos = [at]
        else:
            left_out.update(os.path.splitext(name)[1].lower() for name in names if not is_video(name))
        found += videos
    return sorted(found)


def is_video(name: str) -> bool:
    """Whether a file's ending is that of a video."""
    return name.lower().endswith(VIDEO_SUFFIXES)


def is_frame(name: str) -> bool:
    """Whether a file is a frame of a video; a GIF is a video of its own."""
    return is_data(name) and is_image(name) and not is_video(name)
