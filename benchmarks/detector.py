"""How the memory of `anomalies fit` grows with the number of images: ResNet-18 with random weights, 224 pixels.

    python benchmarks/detector.py 32
    python benchmarks/detector.py 256

Each prints the peak of the memory of its process. The difference, divided by the number of images between them, is
what an image costs. Few patches are kept, so that the bank does not count.
"""

import resource
import sys
import time
from collections.abc import Iterator

import jax
import numpy as np

from resnet_jax.analysis.anomalies.detector import fit
from resnet_jax.config import Preset
from resnet_jax.models import create_model, init
from resnet_jax.run.network import Network

BATCH = 16
SHARE = 0.002


def main(count: int) -> None:
    model = create_model("resnet18")
    network = Network("resnet18", model, init(model, jax.random.key(0)), Preset(), ())

    def batches() -> Iterator[np.ndarray]:
        for start in range(0, count, BATCH):
            size = min(BATCH, count - start)
            yield np.random.default_rng(start).integers(0, 256, (size, 224, 224, 3), dtype=np.uint8)

    begun = time.monotonic()
    detector = fit(network, network.preset, batches, count, good="good", share=SHARE)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{count} images: {len(detector.bank)} patches, {time.monotonic() - begun:.0f} s, peak {peak:.0f} MB")


if __name__ == "__main__":
    main(int(sys.argv[1]))
