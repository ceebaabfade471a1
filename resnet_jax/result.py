"""`result.json`: what a complete run came to, and by which it is known to be complete."""

import json
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from resnet_jax.config import Config
from resnet_jax.files import write_atomically
from resnet_jax.training.curves import plot_curves
from resnet_jax.training.metrics import read_metrics

RESULT = "result.json"
BROKEN_IMAGES = "broken_images.json"


def write_result(
    config: Config, workdir: epath.Path, *, seconds: float, devices: int, broken: Mapping[int, str]
) -> dict[str, Any]:
    """Draws the curves, then writes `result.json`, by which a complete run is known.

    Args:
      broken: the training images that were left out, and why; written to a file of their own if there are any.
    """
    records = read_metrics(workdir)
    evaluations = [record for record in records if record["kind"] == "eval"]
    last, best = evaluations[-1], max(evaluations, key=lambda record: record["top1"])
    result = {
        "model": config.model.name,
        "data": config.data.name,
        **{name: last[name] for name in ("top1", "top5", "loss", "count")},
        "best_top1": best["top1"],
        "best_step": best["step"],
        "steps": last["step"],
        "epochs": config.epochs,
        "seed": config.seed,
        "broken_images": len(broken),
        "seconds": seconds,
        "devices": f"{devices} x {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
    }
    plot_curves(records, workdir / "curves.png", f"{config.model.name} on {config.data.name}")
    if broken:
        write_atomically(workdir / BROKEN_IMAGES, json.dumps(broken, indent=2) + "\n")
    write_atomically(workdir / RESULT, json.dumps(result, indent=2) + "\n")
    return result


def summary(result: dict[str, Any]) -> str:
    """One line for a person."""
    line = (
        f"top-1 {100 * result['top1']:.2f} % of {result['count']} test images "
        f"(best {100 * result['best_top1']:.2f} % at step {result['best_step']}), {result['seconds']:.0f} s"
    )
    broken = result.get("broken_images", 0)  # not in older files
    return f"{line}; {broken} training images left out, named in {BROKEN_IMAGES}" if broken else line
