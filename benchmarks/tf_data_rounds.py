"""tf.data's part of `input_pipeline.py`, in a process of its own: a line on stdin asks for a round.

    python tf_data_rounds.py FOLDER THREADS train|eval|eval-antialias

It needs nothing but TensorFlow, so it may run in an environment of its own.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BATCH = 64
Rate = tuple[float, float]
"""Images per second of wall clock, and of CPU."""


def timed(work: Callable[[], int]) -> Rate:
    """`work` returns how many images it made."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    images = work()
    return images / (time.perf_counter() - wall), images / (cpu_seconds() - cpu)


def cpu_seconds() -> float:
    """Of this process and of all that descend from it, whether they have ended or not."""
    return time.process_time() + sum(os.times()[2:4]) + sum(_cpu_seconds_of(child) for child in _children(os.getpid()))


def _cpu_seconds_of(process: int) -> float:
    try:
        times = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:15]
    except OSError:  # it has just ended
        return 0.0
    ticks = sum(int(time) for time in times)  # its own and those of its children that have ended
    return ticks / os.sysconf("SC_CLK_TCK") + sum(_cpu_seconds_of(child) for child in _children(process))


def _children(process: int) -> list[int]:
    try:
        lists = [path.read_text().split() for path in Path(f"/proc/{process}/task").glob("*/children")]
    except OSError:
        return []
    return [int(child) for children in lists for child in children]


def tf_data(folder: Path, threads: int, mode: str) -> Callable[[], int]:
    import tensorflow as tf  # here, so that the rest can be imported without it

    files = sorted(str(path) for path in folder.glob("train/*/*.jpg"))

    def read(path: Any) -> Any:
        data = tf.io.read_file(path)
        if mode != "train":
            image = tf.io.decode_jpeg(data, channels=3)
            scale = 256 / tf.cast(tf.reduce_min(tf.shape(image)[:2]), tf.float32)
            shape = tf.cast(tf.cast(tf.shape(image)[:2], tf.float32) * scale, tf.int32)
            image = tf.image.resize(image, shape, antialias=mode == "eval-antialias")
            return tf.cast(tf.image.resize_with_crop_or_pad(image, 224, 224), tf.uint8)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(data),
            tf.zeros([1, 0, 4]),
            min_object_covered=0.0,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        image = tf.io.decode_and_crop_jpeg(data, tf.concat([begin[:2], size[:2]], 0), channels=3)
        return tf.cast(tf.image.random_flip_left_right(tf.image.resize(image, [224, 224])), tf.uint8)

    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    data = tf.data.Dataset.from_tensor_slices(files)
    data = data.shuffle(len(files)) if mode == "train" else data
    data = data.map(read, num_parallel_calls=threads).batch(BATCH).prefetch(1).with_options(options)
    return lambda: sum(int(batch.shape[0]) for batch in data)


if __name__ == "__main__":
    work = tf_data(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    for _ in sys.stdin:
        print(json.dumps(timed(work)), flush=True)
