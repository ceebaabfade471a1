"""What a teacher gives: the network of configs/distil.py with a teacher and without, several times each.

    python benchmarks/distil.py --data /usr/share/datasets/fashion-mnist --teacher runs/fashion
    python benchmarks/distil.py --data ... --teacher runs/fashion --seeds 1 --runs alone:0.1 alone:0.2 hinton:0.2

It trains on the first images of the training set alone. All ways see the same images as often, in the same order for
the same seed. `hinton` is the loss of the config, `matching` the same without labels (alpha = 1). Each way has its own
learning rate. The difference is that to the first way, seed by seed; its standard error is that of the mean of these
differences. Accuracies are of all test images, after the last update.
"""

import argparse
import statistics
import struct
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a checkout that is not installed

import numpy as np
from rich.console import Console
from rich.table import Table

import resnet_jax as rn
from resnet_jax.data.sources.idx import open_idx
from resnet_jax.display import plain_console
from resnet_jax.files import read_json
from resnet_jax.run.result import RESULT
from resnet_jax.runtime.programs import remember_programs
from resnet_jax.runtime.xla_flags import set_xla_flags

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "distil.py"
WAYS = {
    "alone": {"teacher": ""},
    "hinton": {},
    "matching": {"alpha": 1.0},
}
BEST = ["alone:0.8", "hinton:0.4", "matching:0.4"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with files of MNIST's kind")
    parser.add_argument("--images", type=int, default=1000, help="how many of the training set")
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--runs", nargs="+", metavar="WAY:RATE", default=BEST, help=f"ways: {', '.join(WAYS)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=20.0)
    asked = parser.parse_args()
    set_xla_flags()  # as train.py does
    remember_programs()
    with tempfile.TemporaryDirectory() as folder:
        write_first(asked.data, asked.images, Path(folder))
        compare(asked, rn.load_config(CONFIG, ["--data.name", f"idx:{folder}", "--epochs", str(asked.epochs)]))


def write_first(source: Path, images: int, folder: Path) -> None:
    """Writes the data set anew, with the first images of the training set and all test images."""
    for split, count in (("train", images), ("test", None)):
        found = open_idx(source, split)
        pixels = np.stack([found[i]["image"] for i in range(count or len(found))])[..., 0]
        labels = np.array(found.labels()[: len(pixels)], np.uint8)
        for name, array in ((f"{split}-images-idx3-ubyte", pixels), (f"{split}-labels-idx1-ubyte", labels)):
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (folder / name).write_bytes(header + array.astype(np.uint8).tobytes())


def compare(asked: argparse.Namespace, config: rn.Config) -> None:
    table = Table(title=f"{config.model.name} {config.model.stage_sizes}, x{config.model.width_multiplier:g}")
    for column in ("way", "rate", "top-1 %, seed by seed", "mean", "difference", "s a run"):
        table.add_column(column, justify="left" if column == "way" else "right")
    first: list[float] = []
    for way, rate in (one.split(":") for one in asked.runs):
        distil = replace(config.distil, **{"teacher": asked.teacher, **WAYS[way]})
        tried = replace(config, distil=distil, optim=replace(config.optim, base_lr=float(rate)))
        results = [run(replace(tried, seed=seed)) for seed in range(asked.seeds)]
        found = [100 * result["top1"] for result in results]
        apart = [a - b for a, b in zip(found, first, strict=False)]
        first = first or found
        error = f" ± {statistics.stdev(apart) / len(apart) ** 0.5:.2f}" if len(apart) > 1 else ""
        table.add_row(
            *(way, rate, " ".join(f"{one:.2f}" for one in found), f"{statistics.mean(found):.2f}"),
            f"{statistics.mean(apart):+.2f}{error}" if apart else "",
            f"{statistics.median(result['seconds'] for result in results):.0f}",
        )
        print(f"{way}:{rate} {found}", file=sys.stderr, flush=True)
    plain_console().print(table)


def run(config: rn.Config) -> dict[str, float]:
    """The result of a run: its last accuracy, and how long it took."""
    with tempfile.TemporaryDirectory() as folder:
        rn.train(config, folder, console=Console(quiet=True))
        result = read_json(Path(folder) / RESULT)
        return {"top1": result["top1"], "seconds": result["seconds"]}


if __name__ == "__main__":
    main()
