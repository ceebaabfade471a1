"""What `resnet_jax evaluate` prints of a network that names a class for each pixel."""

import json
from collections.abc import Mapping, Sequence

from rich.table import Table

from resnet_jax.display import plain_console

IOU = "iou/"


def show_masks(
    numbers: Mapping[str, float],
    evaluations: Sequence[str],
    *,
    title: str,
    note: str,
    step: int | None,
    per_class: bool,
    as_json: bool,
) -> None:
    """Prints the numbers of one or several evaluations, as tables or as one JSON object.

    Args:
      numbers: those of an evaluation NAME are called `NAME/miou` and so on; of one without a name, `miou`.
      evaluations: their names.
      step: of a run.
      per_class: also print the IoU of each class that occurs, the worst first.
    """
    if as_json:
        print(json.dumps({**({} if step is None else {"step": step}), **numbers}))
        return
    console = plain_console()
    table = Table(title=title, caption=note)
    if any(evaluations):
        table.add_column("evaluation")
    for heading in ("mIoU", "pixels right", "loss", "images"):
        table.add_column(heading, justify="right")
    begins = [f"{name}/" if name else "" for name in evaluations]
    for name, begin in zip(evaluations, begins, strict=True):
        table.add_row(
            *([name] if any(evaluations) else []),
            *(f"{100 * numbers[begin + number]:.2f} %" for number in ("miou", "pixel_accuracy")),
            f"{numbers[f'{begin}loss']:.4f}",
            f"{numbers[f'{begin}count']:.0f}",
        )
    console.print(table)
    for name, begin in zip(evaluations, begins, strict=True) if per_class else ():
        start = f"{begin}{IOU}"
        of_class = {key.removeprefix(start): value for key, value in numbers.items() if key.startswith(start)}
        table = Table(title=f"IoU by class{f', {name}' if name else ''}")
        table.add_column("class")
        table.add_column("IoU", justify="right")
        for label, value in sorted(of_class.items(), key=lambda pair: pair[1]):
            table.add_row(label, f"{100 * value:.2f} %")
        console.print(table)
