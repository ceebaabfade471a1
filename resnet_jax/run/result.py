"""`result.json`: the result of a complete run. A folder with this file counts as complete."""

import json
import math
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from resnet_jax.config import Config
from resnet_jax.files import write_atomically
from resnet_jax.logs.curves import plot_curves
from resnet_jax.logs.run_log import read_metrics
from resnet_jax.logs.shown import Names, Shown

RESULT = "result.json"
BROKEN_IMAGES = "broken_images.json"
PLACE = ("kind", "step", "epoch", "seconds")  # every line of a log has these


def write_result(
    config: Config,
    workdir: epath.Path,
    best: str,
    names: Names,
    *,
    seconds: float,
    devices: int,
    broken: Mapping[int, str],
    **facts: Any,
) -> dict[str, Any]:
    """Draws the curves, then writes `result.json`, which marks the run as complete.

    It holds the report of the last evaluation, and `best_NAME` and `best_step` of the evaluation with the highest
    `best`.

    Args:
      best: the name of a number of the report; larger is better.
      names: how the numbers are shown.
      facts: further entries.
      broken: the training images that were left out, and why. They are written to a file of their own if there are any.
    """
    records = read_metrics(workdir)
    evaluations = [record for record in records if record["kind"] == "eval" and best in record]
    last, highest = evaluations[-1], max(evaluations, key=lambda record: _rank(record, best))
    report = {name: value for name, value in last.items() if name not in PLACE}
    result = {
        "model": config.model.name,
        "data": config.data.name,
        **report,
        f"best_{best}": highest[best],
        "best_step": highest["step"],
        "steps": last["step"],
        "epochs": config.epochs,
        "seed": config.seed,
        "broken_images": len(broken),
        "seconds": seconds,
        "devices": f"{devices} x {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
        **facts,
    }
    title = f"{config.model.name} on {config.data.name}"
    plot_curves(records, workdir / "curves.png", title, best, names[best])
    if broken:
        write_atomically(workdir / BROKEN_IMAGES, json.dumps(broken, indent=2) + "\n")
    write_atomically(workdir / RESULT, json.dumps(result, indent=2) + "\n")
    return result


def summary(result: dict[str, Any], best: str, names: Names, count: str = "count") -> str:
    """The result in one line for people.

    Args:
      count: the name of the number of examples.
    """
    shown, last, highest = names[best], result[best], result[f"best_{best}"]
    line = (
        f"{shown.label} {_text(shown, last)} {'of' if shown.is_fraction else 'on'} {result[count]} test images "
        f"(best {_text(shown, highest)} at step {result['best_step']}), {result['seconds']:.0f} s"
    )
    broken = result.get("broken_images", 0)  # not in older files
    return f"{line}; {broken} training images left out, named in {BROKEN_IMAGES}" if broken else line


def _rank(record: Mapping[str, Any], best: str) -> float:
    return -math.inf if record[best] is None else record[best]  # null in the log: it was not finite


def _text(shown: Shown, value: float | None) -> str:
    return "nan" if value is None else shown.text(value).replace("%", " %")
