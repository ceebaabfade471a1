"""How fast the search for neighbours is, beside scikit-learn's brute force, on the same features in one run.

    python benchmarks/neighbours.py                        # 10,000 x 2,048 features, the 10 nearest of each

Both find the nearest of every row among all others, by Euclidean distance and by cosine. They take turns. Ours counts
from an array in the memory of the host to indices in the memory of the host, compiling left out: it is printed apart.
The features are those of `benchmarks/probe.py`, like a network's pooled features. Last come the ratios of the medians,
how many of the indices differ, and by which part of them the distances there do.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from resnet_jax.runtime.xla_flags import set_xla_flags

set_xla_flags()

from probe import pooled_features  # noqa: E402
from sklearn.neighbors import NearestNeighbors  # noqa: E402

from resnet_jax.analysis.search import BLOCK_BYTES, nearest  # noqa: E402


def timed(search: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = search()
    return time.perf_counter() - start, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--neighbours", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    features, _ = pooled_features(args.rows, args.features, classes=10, separation=0.7)
    block = min(BLOCK_BYTES, 4 * args.rows**2)
    print(
        f"{args.rows:,} x {args.features:,} features, {args.neighbours} nearest; blocks of {block / 2**20:.0f} MiB "
        "on each device"
    )
    for metric in ("euclidean", "cosine"):
        peer = NearestNeighbors(n_neighbors=args.neighbours, algorithm="brute", metric=metric).fit(features)
        ours = lambda: nearest(features, neighbours=args.neighbours, metric=metric)  # noqa: B023
        compiling, _ = timed(ours)
        times: dict[str, list[float]] = {"ours": [], "scikit-learn": []}
        for _ in range(args.rounds):
            seconds, found = timed(ours)
            times["ours"].append(seconds)
            seconds, (distances, places) = timed(peer.kneighbors)
            times["scikit-learn"].append(seconds)
        values = found.values if metric == "euclidean" else 1 - found.values
        other = found.places != places
        apart = (np.abs(values - distances) / distances)[other].max(initial=0)
        medians = {name: float(np.median(seconds)) for name, seconds in times.items()}
        print(
            f"{metric}: ours {medians['ours']:.2f} s (first time {compiling:.2f}), scikit-learn "
            f"{medians['scikit-learn']:.2f} s: {medians['scikit-learn'] / medians['ours']:.2f}x as fast; "
            f"{other.sum()} of {other.size:,} indices differ, distances there by {apart:.1e} at most",
            flush=True,
        )


if __name__ == "__main__":
    main()
