"""`python -m resnet_jax evaluate DIR`"""

import json
from pathlib import Path
from typing import Literal

from rich.table import Table
from tyro.conf import Positional

from resnet_jax.display import distinct, plain_console


def evaluate(
    workdir: Positional[Path],
    checkpoint: Literal["last", "best"] = "last",
    per_class: bool = False,
    confusion: Path | None = None,
    as_json: bool = False,
) -> None:
    """Evaluate a trained run on its test split. Every image counts exactly once.

    Args:
        workdir: The folder that `train.py --workdir` filled.
        checkpoint: The newest checkpoint, or the one with the best top-1 accuracy.
        per_class: Also print the accuracy of each class, the worst first.
        confusion: Also draw the confusion matrix and the calibration as this PNG.
        as_json: Print one JSON object instead of tables.
    """
    from resnet_jax.run.evaluate import evaluate_in_detail
    from resnet_jax.run.predict import load_run

    trained = load_run(workdir, checkpoint)
    report = evaluate_in_detail(trained.config, trained.state)
    step, data = int(trained.state.step), trained.config.data
    title = f"{trained.config.model.name} after {step} steps, on {data.name} {data.eval_split}"
    if confusion is not None:
        from resnet_jax.tasks.classify.confusion import plot_confusion

        plot_confusion(report, trained.class_names, confusion, f"{title}: top-1 {report.top1:.2%}")
    images = report.confusion.sum(axis=1)
    if as_json:
        whole = {name: getattr(report, name) for name in ("loss", "top1", "top5", "count", "calibration_error")}
        # A class without images has no accuracy.
        accuracies = [float(x) if n else None for x, n in zip(report.per_class, images, strict=True)]
        classes = {"per_class": dict(zip(distinct(trained.class_names), accuracies, strict=True))} if per_class else {}
        print(json.dumps({"step": step, **whole, **classes}))
        return
    table = Table(title=title)
    for heading in ("top-1", "top-5", "loss", "calibration error", "images"):
        table.add_column(heading, justify="right")
    table.add_row(
        *(f"{100 * value:.2f} %" for value in (report.top1, report.top5)),
        f"{report.loss:.4f}",
        f"{100 * report.calibration_error:.2f} %",
        f"{report.count}",
    )
    console = plain_console()
    console.print(table)
    if per_class:
        table = Table(title="Accuracy by class")
        for heading, justify in (("class", "left"), ("top-1", "right"), ("right", "right"), ("images", "right")):
            table.add_column(heading, justify=justify)  # type: ignore[arg-type]
        for i in sorted(range(len(images)), key=lambda i: report.per_class[i] if images[i] else 2):
            accuracy = f"{100 * report.per_class[i]:.2f} %" if images[i] else ""
            table.add_row(trained.class_names[i], accuracy, f"{report.confusion[i, i]}", f"{images[i]}")
        console.print(table)
    if confusion is not None:
        console.print(f"The confusion matrix is in {confusion}", soft_wrap=True)
