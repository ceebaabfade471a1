"""What `resnet_jax evaluate` prints and draws of a network that finds objects."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from resnet_jax.display import distinct, plain_console

if TYPE_CHECKING:
    from resnet_jax.tasks.detect.coco import Judged

_COLUMNS = {
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap_s": "small",
    "ap_m": "medium",
    "ap_l": "large",
    "ar100": "AR",
}
_CAPTION = """AP: average precision over the IoU .5 to .95; AP50, AP75: at one
small: below 32 x 32 pixels; large: from 96 x 96; AR: recall"""


def show_boxes(
    found: "Mapping[str, Judged]",
    *,
    title: str,
    note: str,
    step: int | None,
    per_class: bool,
    curves: Path | None,
    as_json: bool,
) -> None:
    """Prints the numbers of one or several evaluations, as tables or as one JSON object.

    Args:
      found: by the names of the evaluations; one without a name is called "".
      step: of a run.
      per_class: also print the average precision of each class that occurs, the worst first.
      curves: the picture of precision and recall to draw, of the first evaluation.
    """
    from resnet_jax.run.evaluate import key

    if curves is not None:
        from resnet_jax.analysis.precision_recall import plot_precision_recall

        name, first = next(iter(found.items()))
        plot_precision_recall(first, f"{title}{f', {name}' if name else ''}", curves)
    if as_json:
        numbers = {
            key(name, number): value
            for name, one in found.items()
            for number, value in {**one.numbers, "count": len(one.truth.data["images"])}.items()
        }
        print(json.dumps({**({} if step is None else {"step": step}), **numbers}))
        return
    console = plain_console()
    table = Table(title=title, caption=f"{note}\n{_CAPTION}" if note else _CAPTION)
    if any(found):
        table.add_column("evaluation")
    table.add_column("")
    for heading in (*_COLUMNS.values(), "images"):
        table.add_column(heading, justify="right")
    for name, one in found.items():
        images = f"{len(one.truth.data['images']):,}"
        for kind, judged in one.kinds.items():
            shown = [_percent(judged.numbers.get(f"{kind}_{number}")) for number in _COLUMNS]
            table.add_row(*([name] if any(found) else []), _several(kind), *shown, images)
    console.print(table)
    for name, one in found.items() if per_class else ():
        console.print(_of_classes(one, name))
    if curves is not None:
        console.print(f"Precision and recall are in {curves}", soft_wrap=True)


def _of_classes(found: "Judged", name: str) -> Table:
    table = Table(title=f"Average precision by class{f', {name}' if name else ''}")
    table.add_column("class")
    for kind in found.kinds:
        for heading in (f"{kind} AP", f"{kind} AP50"):
            table.add_column(heading, justify="right")
    table.add_column("objects", justify="right")
    names, first = distinct(found.truth.class_names), next(iter(found.kinds))
    order = sorted(found.truth.objects, key=lambda label: found.numbers[f"{first}_ap/{names[label]}"])
    for label in order:
        numbers = [
            _percent(value)
            for kind, one in found.kinds.items()
            for value in (one.numbers[f"{kind}_ap/{names[label]}"], one.half[label])
        ]
        table.add_row(names[label], *numbers, f"{found.truth.objects[label]:,}")
    return table


def _several(kind: str) -> str:
    return {"box": "boxes", "mask": "masks"}[kind]


def _percent(value: float | None) -> str:
    """In percent, as detections are compared everywhere; empty if there is no such object."""
    return "" if value is None else f"{100 * value:.1f}"
