"""What a margin gives: configs/embed/digits.py with several losses, several times each, beside raw pixels.

    python benchmarks/embeddings.py
    python benchmarks/embeddings.py --losses margin softmax triplet contrastive adaface --seeds 3

The numbers that verification sees are not those of the training, nor are the scans. The difference is that to the
first loss, seed by seed; its standard error is that of the mean of these differences. `pixels` compares the images
themselves.
"""

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a checkout that is not installed

import numpy as np
from rich.console import Console
from rich.table import Table

import resnet_jax as rn
from resnet_jax.data import load_source
from resnet_jax.display import plain_console
from resnet_jax.runtime.programs import remember_programs
from resnet_jax.runtime.xla_flags import set_xla_flags
from resnet_jax.tasks.embed.measure import report

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "embed" / "digits.py"
SHOWN = ("accuracy", "rank1", "map", "tar_0.01")
IN_BATCHES = {"triplet": 4, "contrastive": 4}  # images of a number in a batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", nargs="+", default=["margin", "softmax"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, help="of each training; by default those of the config")
    asked = parser.parse_args()
    set_xla_flags()  # as train.py does
    remember_programs()
    config = rn.load_config(CONFIG, ["--epochs", str(asked.epochs)] if asked.epochs else [])
    table = Table(title=f"{config.model.name}, {config.epochs:g} epochs, {asked.seeds} seeds; %")
    for column in (
        "loss",
        "verification, seed by seed",
        "mean",
        "difference",
        "rank-1",
        "mAP",
        "TAR@FAR .01",
        "s a run",
    ):
        table.add_column(column, justify="left" if column == "loss" else "right")
    first: list[float] = []
    for loss in asked.losses:
        found = [run(config, loss, seed) for seed in range(asked.seeds)]
        accuracies = [100 * one["accuracy"] for one in found]
        first = first or accuracies
        print(f"{loss} {accuracies}", file=sys.stderr, flush=True)
        means = [f"{100 * statistics.mean(one[name] for one in found):.1f}" for name in SHOWN[1:]]
        table.add_row(
            loss,
            " ".join(f"{accuracy:.2f}" for accuracy in accuracies),
            f"{statistics.mean(accuracies):.2f}",
            difference([mine - theirs for mine, theirs in zip(accuracies, first, strict=True)]),
            *means,
            f"{statistics.mean(one['seconds'] for one in found):.0f}",
        )
    pixels = of_pixels(config)
    table.add_row(
        "pixels", "", f"{100 * pixels['accuracy']:.2f}", "", *(f"{100 * pixels[n]:.1f}" for n in SHOWN[1:]), ""
    )
    plain_console().print(table)


def run(config: rn.Config, loss: str, seed: int) -> dict[str, float]:
    config = replace(
        config,
        seed=seed,
        task=replace(config.task, loss=loss),
        data=replace(config.data, per_identity=IN_BATCHES.get(loss, 0)),
    )
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        state = rn.train(config, Path(folder) / "run", console=Console(quiet=True))
        return {**rn.evaluate(config, state), "seconds": time.perf_counter() - begun}


def of_pixels(config: rn.Config) -> dict[str, float]:
    """The images, without their mean, as if they were embeddings."""
    source = load_source(config.data, config.data.eval_split)
    images = np.stack([source[i]["image"] for i in range(len(source))]).reshape(len(source), -1) / 255
    images = images - images.mean(axis=1, keepdims=True)
    return report({}, {"embedding": images / np.linalg.norm(images, axis=1, keepdims=True), "label": source.labels()})


def difference(differences: list[float]) -> str:
    if len(differences) < 2 or not any(differences):
        return ""
    error = statistics.stdev(differences) / len(differences) ** 0.5
    return f"{statistics.mean(differences):+.2f} +- {error:.2f}"


if __name__ == "__main__":
    main()
