"""`python -m resnet_jax evaluate DIR`"""

import json
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional


def evaluate(workdir: Positional[Path], checkpoint: Literal["last", "best"] = "last", as_json: bool = False) -> None:
    """Evaluate a trained run on its test split; every image counts exactly once.

    Args:
        workdir: The folder that `train.py --workdir` filled.
        checkpoint: The newest checkpoint, or the one with the best top-1 accuracy.
        as_json: Print one JSON object instead of a table.
    """
    from resnet_jax import run

    trained = run.load_run(workdir, checkpoint)
    report = run.evaluate(trained.config, trained.state)
    step = int(trained.state.step)
    if as_json:
        print(json.dumps({"step": step, **report}))
        return
    data = trained.config.data
    table = Table(title=f"{trained.config.model.name} after {step} steps, on {data.name} {data.eval_split}")
    for heading in ("top-1", "top-5", "loss", "images"):
        table.add_column(heading, justify="right")
    table.add_row(
        f"{100 * report['top1']:.2f} %", f"{100 * report['top5']:.2f} %", f"{report['loss']:.4f}", f"{report['count']}"
    )
    Console().print(table)
