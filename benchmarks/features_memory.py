"""That the memory of `features` does not grow with the number of images: its peak for N images and for eight times N.

    python benchmarks/features_memory.py                   # 4,000 and 32,000 images of 32 pixels, whole maps of a stage
    python benchmarks/features_memory.py --images 16000

Each pass has a process of its own, and reads records from the disk. Memory is the process's resident set at its highest
(what a person sees in `top`), after the pass and before the arrays are opened. Files that are only written count for
nothing in it.
"""

import argparse
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import numpy as np

from resnet_jax.analysis.features import features
from resnet_jax.config import DataConfig, Preset
from resnet_jax.data import Arrays, write_records
from resnet_jax.models import create_model, init
from resnet_jax.run.network import Network

SIDE = 32
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--pass-over", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.pass_over:
        print(compute(options.pass_over))
        return
    medians = []
    for count in (options.images, 8 * options.images):
        with TemporaryDirectory() as folder:
            images = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
            source = Arrays(images, np.arange(count) % 10, tuple("0123456789"), splits=("test",))
            write_records({"test": source}, Path(folder) / "data", short_side=SIDE)
            del images, source
            peaks = sorted(measure(folder) for _ in range(ROUNDS))
        medians.append(peaks[ROUNDS // 2])
        print(f"{count:>7,} images: peak {', '.join(f'{peak / 1e6:,.0f}' for peak in peaks)} MB", flush=True)
    print(f"ratio of the medians {medians[1] / medians[0]:.2f}")


def measure(folder: str) -> int:
    """The peak of a process that makes the features of the records in a folder."""
    shutil.rmtree(Path(folder) / "f", ignore_errors=True)
    command = [sys.executable, __file__, "--pass-over", folder]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def compute(folder: Path) -> int:
    """The highest resident set of this process, in bytes, after the features of all images are on the disk."""
    model = create_model("cifar_resnet20", num_classes=10)
    variables = jax.device_get(init(model, jax.random.key(0)))
    preset = Preset(resize=SIDE, crop=SIDE)
    network = Network("cifar_resnet20", model, variables, preset, tuple("0123456789"))
    kept = features(network, DataConfig(name=f"records:{folder / 'data'}"), "test", ["stage3"], folder / "f", maps=True)
    assert len(kept.labels) == len(kept["stage3"])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
