"""How fast the input pipeline is, beside tf.data and torchvision's DataLoader, on the same JPEGs in one run.

    pip install scikit-image                      # the photographs; torch, torchvision and tensorflow-cpu to compare
    python benchmarks/input_pipeline.py

The JPEGs are cut from photographs that ship inside scikit-image and scikit-learn: 500x375 on average, quality 92. Every
pipeline reads all of them from the page cache, in rounds that take turns, and the best round of each counts, in images
per second of wall clock and per second of CPU time (of one core; of all processes together). A pipeline whose packages
are missing is skipped, and says so. `--tensorflow-python` names the interpreter of another environment that has
TensorFlow.

What is not the same: ours flips in the compiled step, the others on the host, so there is a line in which ours does
that, too. torchvision's resizes antialias; tf.data's do not, unless told to, and ours in training only beyond twofold.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
from PIL import Image
from tf_data_rounds import Rate, timed

from resnet_jax.config import AugmentConfig, DataConfig
from resnet_jax.data import eval_batches, load_source, train_batches, write_records

BATCH = 64
CLASSES = 10


def make_folder(root: Path, count: int) -> None:
    """Writes `count` JPEGs in torchvision's layout."""
    from sklearn.datasets import load_sample_images

    package = find_spec("skimage")
    if package is None or package.origin is None:
        sys.exit("the photographs come with scikit-image, which is not installed: pip install scikit-image")
    shipped = Path(package.origin).parent / "data"
    names = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
    photos = [Image.open(shipped / name).convert("RGB") for name in names if (shipped / name).exists()]
    photos += [Image.fromarray(image) for image in load_sample_images().images]
    rng = np.random.default_rng(0)
    for i in range(count):
        photo = photos[i % len(photos)]
        width, height = (int(side * rng.uniform(0.8, 1.2)) for side in (500, 375))
        scale = rng.uniform(0.8, 1) * min(photo.width / width, photo.height / height)
        left, top = rng.uniform(0, photo.width - width * scale), rng.uniform(0, photo.height - height * scale)
        box = (left, top, left + width * scale, top + height * scale)
        path = root / "train" / f"class{i % CLASSES}" / f"{i:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.resize((width, height), Image.Resampling.LANCZOS, box=box).save(path, quality=92)


# What recipes of configs/recipes ask of the host.
RECIPES = {
    "scales of He 2015": AugmentConfig(train_resize=(256, 480)),
    "bicubic crops": AugmentConfig(crop_interpolation="bicubic"),
    "strikes back A1": AugmentConfig(
        crop_interpolation="random", policy="rand_augment_timm", rand_magnitude=7, rand_spread=0.5
    ),
    "TrivialAugmentWide": AugmentConfig(policy="trivial_augment_wide"),
}


def ours(
    name: str,
    count: int,
    threads: int,
    *,
    train: bool,
    flip: bool = False,
    augment: AugmentConfig = AugmentConfig(),  # noqa: B008
) -> Callable[[], int]:
    config = DataConfig(name=name, threads=threads, train_split="train", eval_split="train", augment=augment)
    source = load_source(config, "train")
    rng = np.random.default_rng(0)
    batches = train_batches(source, config, batch_size=BATCH, seed=0)

    def work() -> int:
        if not train:
            return sum(int(batch["weight"].sum()) for batch in eval_batches(source, config, batch_size=BATCH))
        for _ in range(count // BATCH):
            batch = next(batches)
            for image in batch["image"]:
                if flip and rng.random() < 0.5:
                    cv2.flip(image, 1, image)
        settle()  # a round begins with batches that are ready, so it must leave as many
        return count // BATCH * BATCH

    return work


def settle() -> None:
    """Returns when this process has nothing left to do."""
    before = -1.0
    while time.process_time() - before > 0.001:
        before = time.process_time()
        time.sleep(0.005)


def torchvision_loader(folder: Path, threads: int, *, train: bool) -> Callable[[], int]:
    import torch

    try:
        import torchvision
    except RuntimeError:  # its compiled operators do not fit this torch; the transforms need only their names
        for operator in ("nms", "qnms"):
            torch.library.define(f"torchvision::{operator}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        import torchvision
    from torchvision import transforms as t

    torch.set_num_threads(1)
    steps = [t.RandomResizedCrop(224), t.RandomHorizontalFlip()] if train else [t.Resize(256), t.CenterCrop(224)]
    data = torchvision.datasets.ImageFolder(str(folder / "train"), t.Compose([*steps, t.PILToTensor()]))
    loader = torch.utils.data.DataLoader(data, BATCH, shuffle=train, num_workers=threads)
    return lambda: sum(len(labels) for _, labels in loader)


class Elsewhere:
    """tf.data in another interpreter, one round at a time."""

    def __init__(self, python: str, folder: Path, threads: int, mode: str) -> None:
        command = [python, str(Path(__file__).with_name("tf_data_rounds.py")), str(folder), str(threads)]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        self._process = subprocess.Popen(
            [*command, mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def round(self) -> Rate:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise ImportError("that interpreter cannot import tensorflow")
        wall, cpu = json.loads(answer)
        return wall, cpu


def waiting(folder: Path, threads: int, busy: float, batches: int = 30) -> tuple[float, float, float]:
    """Seconds that a batch takes to make, that a step takes, and that it then waits for its batch (mean).

    The step is a sleep, as of a device that works while the host is free; the making of a batch takes `busy` of it.
    """
    config = DataConfig(name=f"folder:{folder}", threads=threads, eval_split="train")
    stream = train_batches(load_source(config, "train"), config, batch_size=BATCH, seed=0)
    for _ in range(3):
        next(stream)
    began = time.perf_counter()
    for _ in range(batches):
        next(stream)
    making = (time.perf_counter() - began) / batches
    step, waits = making / busy, []
    for _ in range(batches):
        time.sleep(step)
        began = time.perf_counter()
        next(stream)
        waits.append(time.perf_counter() - began)
    stream.close()
    return making, step, float(np.mean(waits))


def one_process(folder: Path, threads: int) -> float:
    """Images per second where decoding and resizing take their time but no core: as if there were one for each thread.

    What is left is Python, which one process runs in one thread at a time.
    """
    pixels = np.zeros((2000, 2000, 3), np.uint8)

    def decode_jpeg(*_: Any, **__: Any) -> np.ndarray:
        time.sleep(0.0005)
        return pixels

    def resize(*_: Any, dst: np.ndarray, **__: Any) -> np.ndarray:
        time.sleep(0.0001)
        return dst

    config = DataConfig(name=f"folder:{folder}", threads=threads, eval_split="train")
    stream = train_batches(load_source(config, "train"), config, batch_size=256, seed=0)
    with patch("simplejpeg.decode_jpeg", decode_jpeg), patch("cv2.resize", resize):
        for _ in range(3):
            next(stream)
        began = time.perf_counter()
        for _ in range(12):
            next(stream)
        rate = 12 * 256 / (time.perf_counter() - began)
        stream.close()
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--tensorflow-python", default=sys.executable)
    arguments = parser.parse_args()
    threads = arguments.threads
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "photos"
        make_folder(folder, arguments.images)
        files = list(folder.rglob("*.jpg"))
        size = np.mean([path.stat().st_size for path in files])
        print(f"{len(files)} JPEGs of {size / 1000:.0f} kB on average, {threads} threads or processes each")
        source = load_source(DataConfig(name=f"folder:{folder}", eval_split="train"), "train")
        for encoding in ("jpeg", "raw"):
            write_records({"train": source}, Path(temporary) / encoding, short_side=256, encoding=encoding)
        for train in (True, False):
            rates = dict(measure(folder, Path(temporary), arguments, train=train))
            report(
                "train: decode, random-resized-crop to 224, flip" if train else "eval: resize to 256, crop 224", rates
            )
        print("\nWaiting for the next batch, where making it takes so much of a step:")
        for busy in (0.7, 0.8, 0.9):
            making, step, waits = waiting(folder, threads, busy)
            print(
                f"{busy:4.0%}: step {1000 * step:.0f} ms, batch {1000 * making:.0f} ms, waits {1000 * waits:.1f} ms: "
                f"{1 - waits / making:.1%} of the making is hidden, the device is busy {step / (step + waits):.1%}"
            )
        print("\nWhat the Python of one process can keep up with, if cores were plenty:")
        for many in (4, 8, 16, 32):
            print(f"{many:3} threads: {one_process(folder, many):6.0f} images/s")


def measure(folder: Path, temporary: Path, arguments: argparse.Namespace, *, train: bool) -> Iterator[tuple[str, Rate]]:
    rounds: dict[str, Callable[[], Rate]] = {}

    def add(name: str, make: Callable[[], Callable[[], Rate]]) -> None:
        try:
            rounds[name] = make()
            rounds[name]()  # warm up: files into the page cache, graphs traced, processes forked once
        except ImportError as error:
            rounds.pop(name, None)
            print(f"skipped {name}: {error}")

    def here(work: Callable[[], int]) -> Callable[[], Rate]:
        return lambda: timed(work)

    threads, count = arguments.threads, arguments.images
    add("ours", lambda: here(ours(f"folder:{folder}", count, threads, train=train)))
    if train:
        add("ours, flipping on the host", lambda: here(ours(f"folder:{folder}", count, threads, train=True, flip=True)))
        for recipe, augment in RECIPES.items():
            work = partial(ours, f"folder:{folder}", count, threads, train=True, augment=augment)
            add(f"ours, {recipe}", lambda work=work: here(work()))
    add("ours, records of JPEG 256", lambda: here(ours(f"records:{temporary}/jpeg", count, threads, train=train)))
    add("ours, records of pixels 256", lambda: here(ours(f"records:{temporary}/raw", count, threads, train=train)))
    modes = {"tf.data": "train"} if train else {"tf.data": "eval", "tf.data, antialias": "eval-antialias"}
    for name, mode in modes.items():
        add(name, lambda mode=mode: Elsewhere(arguments.tensorflow_python, folder, threads, mode).round)
    add("torchvision DataLoader", lambda: here(torchvision_loader(folder, threads, train=train)))
    results: dict[str, list[Rate]] = {name: [] for name in rounds}
    for _ in range(arguments.rounds):
        for name, one_round in rounds.items():
            results[name].append(one_round())
    for name, found in results.items():
        yield name, (max(wall for wall, _ in found), max(cpu for _, cpu in found))


def report(title: str, rates: dict[str, Rate]) -> None:
    print(f"\n{title}\n{'':30}{'images/s':>10}{'images/s/core':>15}{'ours / it':>11}")
    for name, (wall, cpu) in rates.items():
        print(f"{name:30}{wall:10.0f}{cpu:15.0f}{rates['ours'][1] / cpu:11.2f}")


if __name__ == "__main__":
    main()
