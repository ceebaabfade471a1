"""How fast the input pipeline is, beside tf.data and torchvision's DataLoader, on the same JPEGs in one run.

    pip install scikit-image                      # the photographs; torch, torchvision and tensorflow-cpu to compare
    python benchmarks/input_pipeline.py

The JPEGs are cut from photographs that ship inside scikit-image and scikit-learn: 500x375 on average, quality 92. Every
pipeline reads all of them from the page cache, in rounds that take turns, and the best round of each counts, in images
per second of wall clock and per second of CPU time (of one core). A pipeline whose packages are missing is skipped, and
says so. `--tensorflow-python` names the interpreter of another environment that has TensorFlow.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

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


def ours(name: str, count: int, threads: int, *, train: bool) -> Callable[[], int]:
    config = DataConfig(name=name, threads=threads, train_split="train", eval_split="train", augment=AugmentConfig())
    source = load_source(config, "train")
    batches = train_batches(
        source, config, batch_size=BATCH, seed=0
    )  # runs on from round to round, always a batch ahead

    def work() -> int:
        if not train:
            return sum(int(batch["weight"].sum()) for batch in eval_batches(source, config, batch_size=BATCH))
        for _ in range(count // BATCH):
            batch = next(batches)
            flipped = np.random.default_rng(0).random(BATCH) < 0.5  # on a device it is free; here it is counted
            batch["image"][flipped] = batch["image"][flipped, :, ::-1]
        return count // BATCH * BATCH

    return work


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

    def __init__(self, python: str, folder: Path, threads: int, train: bool) -> None:
        command = [python, str(Path(__file__).with_name("tf_data_rounds.py")), str(folder), str(threads)]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        self._process = subprocess.Popen(
            [*command, "train" if train else "eval"],
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


def hidden_share(folder: Path, threads: int, batches: int = 12) -> tuple[float, float]:
    """The share of a batch's making that a step hides which takes 1/0.8 of it, and that step in seconds.

    The step is a sleep: a device that is busy while the host is free.
    """
    config = DataConfig(name=f"folder:{folder}", threads=threads, eval_split="train")
    stream = train_batches(load_source(config, "train"), config, batch_size=BATCH, seed=0)
    for _ in range(2):
        next(stream)
    began = time.perf_counter()
    for _ in range(batches):
        next(stream)
    making = (time.perf_counter() - began) / batches
    step, waits = making / 0.8, []
    for _ in range(batches):
        time.sleep(step)
        began = time.perf_counter()
        next(stream)
        waits.append(time.perf_counter() - began)
    stream.close()
    return 1 - float(np.median(waits)) / making, step


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
        hidden, step = hidden_share(folder, threads)
        print(f"\nWith a step of {1000 * step:.0f} ms, 1/0.8 of a batch's time: {100 * hidden:.0f} % of it is hidden")


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
    add("ours, records of JPEG 256", lambda: here(ours(f"records:{temporary}/jpeg", count, threads, train=train)))
    add("ours, records of pixels 256", lambda: here(ours(f"records:{temporary}/raw", count, threads, train=train)))
    add("tf.data", lambda: Elsewhere(arguments.tensorflow_python, folder, threads, train).round)
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
